"""The composition root: settings, URLs, policies, and what joins the apps. Nothing imports it."""
