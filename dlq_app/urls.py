"""Addresses of the dead-letter queue."""

from __future__ import annotations

from django.urls import path

from dlq_app import batch_views, group_views, transfer_views, views

urlpatterns = [
    path("api/dlq", views.LettersView.as_view(), name="dead-letters"),
    path("api/dlq/stats", views.StatsView.as_view(), name="dead-letter-stats"),
    path("api/dlq/groups", group_views.GroupsView.as_view(), name="dead-letter-groups"),
    path("api/dlq/groups/<str:fingerprint>", group_views.GroupView.as_view(), name="dead-letter-group"),
    path("api/dlq/groups/<str:fingerprint>/resolve", group_views.ResolveGroupView.as_view(), name="group-resolve"),
    path("api/dlq/groups/<str:fingerprint>/ignore", group_views.IgnoreGroupView.as_view(), name="group-ignore"),
    path("api/dlq/groups/<str:fingerprint>/reopen", group_views.ReopenGroupView.as_view(), name="group-reopen"),
    path("api/dlq/groups/<str:fingerprint>/note", group_views.NoteGroupView.as_view(), name="group-note"),
    path("api/dlq/export", transfer_views.ExportView.as_view(), name="dead-letter-export"),
    path("api/dlq/import", transfer_views.ImportView.as_view(), name="dead-letter-import"),
    path("api/dlq/replay-batch", batch_views.StartView.as_view(), name="replay-batch"),
    path("api/dlq/replay-batches", batch_views.BatchesView.as_view(), name="replay-batches"),
    path("api/dlq/replay-batches/<str:batch_id>", batch_views.BatchView.as_view(), name="replay-batch-detail"),
    path("api/dlq/replay-batches/<str:batch_id>/items", batch_views.ItemsView.as_view(), name="replay-batch-items"),
    path("api/dlq/replay-batches/<str:batch_id>/report", batch_views.ReportView.as_view(), name="replay-batch-report"),
    path("api/dlq/replay-batches/<str:batch_id>/pause", batch_views.PauseView.as_view(), name="replay-batch-pause"),
    path("api/dlq/replay-batches/<str:batch_id>/resume", batch_views.ResumeView.as_view(), name="replay-batch-resume"),
    path("api/dlq/replay-batches/<str:batch_id>/cancel", batch_views.CancelView.as_view(), name="replay-batch-cancel"),
    # Before <ref>: finds a letter whose message id is itself a word of these addresses.
    path("api/dlq/by-message/<str:message_id>", views.LetterByMessageView.as_view(), name="dead-letter-by-message"),
    path("api/dlq/<str:ref>", views.LetterView.as_view(), name="dead-letter"),
    path("api/dlq/<str:ref>/replay", views.ReplayView.as_view(), name="dead-letter-replay"),
    path("api/dlq/<str:ref>/resolve", views.ResolveView.as_view(), name="dead-letter-resolve"),
    path("api/dlq/<str:ref>/discard", views.DiscardView.as_view(), name="dead-letter-discard"),
    path("api/dlq/<str:ref>/set-aside", views.SetAsideView.as_view(), name="dead-letter-set-aside"),
    path("api/dlq/<str:ref>/notes", views.NotesView.as_view(), name="dead-letter-notes"),
    path("api/dlq/<str:ref>/reveal", views.RevealView.as_view(), name="dead-letter-reveal"),
]
