"""The paper's theory as executable checks: one result, one file."""
