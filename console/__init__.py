"""Shared parts of the console's pages: permissions, live fragments, actions, template tags, base templates, assets."""
