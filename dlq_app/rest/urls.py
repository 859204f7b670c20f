"""Addresses of the dead-letter queue."""

from __future__ import annotations

from django.urls import path

from dlq_app.rest import batches, facets, groups, letters, moves, transfer

urlpatterns = [
    path("api/dlq", letters.LettersView.as_view(), name="dead-letters"),
    path("api/dlq/stats", letters.StatsView.as_view(), name="dead-letter-stats"),
    path("api/dlq/facets", facets.FacetsView.as_view(), name="dead-letter-facets"),
    path("api/dlq/groups", groups.GroupsView.as_view(), name="dead-letter-groups"),
    path("api/dlq/groups/<str:fingerprint>", groups.GroupView.as_view(), name="dead-letter-group"),
    path("api/dlq/groups/<str:fingerprint>/resolve", groups.ResolveGroupView.as_view(), name="group-resolve"),
    path("api/dlq/groups/<str:fingerprint>/ignore", groups.IgnoreGroupView.as_view(), name="group-ignore"),
    path("api/dlq/groups/<str:fingerprint>/reopen", groups.ReopenGroupView.as_view(), name="group-reopen"),
    path("api/dlq/groups/<str:fingerprint>/owner", groups.OwnerGroupView.as_view(), name="group-owner"),
    path("api/dlq/groups/<str:fingerprint>/note", groups.NoteGroupView.as_view(), name="group-note"),
    path("api/dlq/export", transfer.ExportView.as_view(), name="dead-letter-export"),
    path("api/dlq/import", transfer.ImportView.as_view(), name="dead-letter-import"),
    path("api/dlq/moves", moves.MovesView.as_view(), name="dead-letter-moves"),
    path("api/dlq/replay-batch", batches.StartView.as_view(), name="replay-batch"),
    path("api/dlq/replay-batches", batches.BatchesView.as_view(), name="replay-batches"),
    path("api/dlq/replay-batches/<str:batch_id>", batches.BatchView.as_view(), name="replay-batch-detail"),
    path("api/dlq/replay-batches/<str:batch_id>/items", batches.ItemsView.as_view(), name="replay-batch-items"),
    path("api/dlq/replay-batches/<str:batch_id>/export", batches.ItemsExportView.as_view(), name="replay-batch-export"),
    path("api/dlq/replay-batches/<str:batch_id>/facets", facets.BatchFacetsView.as_view(), name="replay-batch-facets"),
    path("api/dlq/replay-batches/<str:batch_id>/report", batches.ReportView.as_view(), name="replay-batch-report"),
    path("api/dlq/replay-batches/<str:batch_id>/pause", batches.PauseView.as_view(), name="replay-batch-pause"),
    path("api/dlq/replay-batches/<str:batch_id>/resume", batches.ResumeView.as_view(), name="replay-batch-resume"),
    path("api/dlq/replay-batches/<str:batch_id>/cancel", batches.CancelView.as_view(), name="replay-batch-cancel"),
    # Before <ref>: finds a letter whose message id is itself a word of these addresses.
    path("api/dlq/by-message/<str:message_id>", letters.LetterByMessageView.as_view(), name="dead-letter-by-message"),
    path("api/dlq/<str:ref>", letters.LetterView.as_view(), name="dead-letter"),
    path("api/dlq/<str:ref>/replay", letters.ReplayView.as_view(), name="dead-letter-replay"),
    path("api/dlq/<str:ref>/resolve", letters.ResolveView.as_view(), name="dead-letter-resolve"),
    path("api/dlq/<str:ref>/discard", letters.DiscardView.as_view(), name="dead-letter-discard"),
    path("api/dlq/<str:ref>/set-aside", letters.SetAsideView.as_view(), name="dead-letter-set-aside"),
    path("api/dlq/<str:ref>/resume", letters.ResumeView.as_view(), name="dead-letter-resume"),
    path("api/dlq/<str:ref>/reopen", letters.ReopenView.as_view(), name="dead-letter-reopen"),
    path("api/dlq/<str:ref>/notes", letters.NotesView.as_view(), name="dead-letter-notes"),
    path("api/dlq/<str:ref>/reveal", letters.RevealView.as_view(), name="dead-letter-reveal"),
]
