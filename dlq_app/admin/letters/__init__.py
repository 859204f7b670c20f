"""The console's pages of dead letters."""
