"""The process that answers. Of the registry it knows names, spec, codes and errors only."""
