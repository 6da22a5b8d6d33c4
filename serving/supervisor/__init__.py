"""The process that talks to registry and ledger, and decides which version answers."""
