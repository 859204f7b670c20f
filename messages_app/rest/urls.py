"""URLs of intake."""

from __future__ import annotations

from django.urls import path

from messages_app.rest import views

urlpatterns = [
    path("api/messages", views.MessagesView.as_view(), name="messages"),
    path("api/messages/batch", views.BatchView.as_view(), name="messages-batch"),
    path("api/messages/<str:message_id>", views.MessageView.as_view(), name="message"),
    path("api/messages/<str:message_id>/reveal", views.RevealView.as_view(), name="message-reveal"),
]
