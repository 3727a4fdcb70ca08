"""Pages: text, tables and charts in one file."""
