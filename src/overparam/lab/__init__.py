"""The lab: tuned, reproducible studies of whether depth makes training faster."""
