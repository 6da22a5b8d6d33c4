"""One model: how it is found, trained, scored and described."""
