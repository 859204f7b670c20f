"""The handlers of chaos runs, as a Django app that only ``chaos.settings`` installs."""
