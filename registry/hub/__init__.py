"""Mirror weights from the Hugging Face Hub and push versions to it."""
