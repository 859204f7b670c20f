"""The console's pages of replay batches."""
