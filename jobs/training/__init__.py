"""One model: find, train, score and describe it."""
