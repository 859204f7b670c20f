"""Values, texts and errors as they cross a border, shared by all apps. Imports no framework, driver or app."""
