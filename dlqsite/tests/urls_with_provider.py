"""The site's addresses with OpenID Connect switched on: the settings of tests have it off."""

from django.urls import include, path

from dlqsite.urls import handler403, handler404, handler500, urlpatterns

__all__ = ["handler403", "handler404", "handler500", "urlpatterns"]

urlpatterns = [*urlpatterns, path("", include("dlqsite.sign_in.urls"))]
