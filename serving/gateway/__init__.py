"""The process that answers: names, spec, codes and errors of the registry, and nothing else of it."""
