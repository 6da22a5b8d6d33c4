"""Where prices come from: what ships in wheels, and a user's files, tables and frames."""
