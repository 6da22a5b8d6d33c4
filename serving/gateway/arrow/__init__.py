"""Arrow IPC streams in place of JSON: what /forecast takes and answers."""
