"""URLs of the circuit breakers."""

from __future__ import annotations

from django.urls import path

from breaker_app import views

urlpatterns = [
    path("api/breakers", views.BreakersView.as_view(), name="breakers"),
    path("api/breakers/<str:name>", views.BreakerView.as_view(), name="breaker"),
    path("api/breakers/<str:name>/force-open", views.ForceOpenView.as_view(), name="breaker-force-open"),
    path("api/breakers/<str:name>/disable", views.DisableView.as_view(), name="breaker-disable"),
    path("api/breakers/<str:name>/reset", views.ResetView.as_view(), name="breaker-reset"),
]
