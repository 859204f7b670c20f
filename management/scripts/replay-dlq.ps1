<#
.SYNOPSIS
Replays dead letters over REST, from a machine that has PowerShell 5.1 or newer.

.DESCRIPTION
Replays dead letters in one batch: those with the given ids (message id or _id), or those that fit the filter. Shows how
many they are and asks, unless -Yes is given.

The API key is read from the variable DLQ_API_KEY or from -KeyFile. There is no parameter for the key itself: every user of
this machine could read it in the list of processes.

Exit code: 0 done (with -Wait: every letter succeeded), 2 some letters failed or were left out, 1 error.

.EXAMPLE
./replay-dlq.ps1 -ErrorType TIMEOUT_ERROR -Rate 20 -Canary 5 -Reason "the bank is back" -Wait
#>
[CmdletBinding(PositionalBinding = $false)]
param(
    [Parameter(ValueFromRemainingArguments = $true)] [string[]] $Id,
    # Ids that are taken as they are, also those that begin with a dash: -LiteralId '--all'.
    [string[]] $LiteralId,
    [string[]] $Status, [string[]] $ErrorType, [string[]] $ErrorKind, [string[]] $Type, [string[]] $Source,
    [string[]] $Priority, [string[]] $Tag, [string[]] $Fingerprint,
    [string[]] $Client, [string[]] $CodeVersion,
    # NAME=VALUE
    [string[]] $Facet,
    # Instants such as 2026-11-24T03:12:00Z.
    [string] $From, [string] $To,
    [string] $Search,
    # Every letter there is: needed without any other filter.
    [switch] $All,
    [ValidateRange(1, 10000000)] [int] $Limit,
    # Letters per second.
    [ValidateRange(0.01, 100000.0)] [double] $Rate,
    # Send so many letters first, and the others only if all of these succeed.
    [ValidateRange(1, 1000)] [int] $Canary,
    # With -Canary: go on if at least so many of the first succeed; all of them unless given.
    [ValidateRange(0, 1000)] [int] $MinSuccess,
    [ValidateRange(0, 10000000)] [int] $MaxFailures,
    [ValidateRange(0.0, 1.0)] [double] $MaxFailureRate,
    # Also letters with WORKER_LOST, which probably kill a worker: each once, alone in a process.
    [switch] $Poison,
    # Start not before this instant.
    [string] $Schedule,
    [string] $Name, [string] $Reason,
    [switch] $DryRun, [switch] $Wait, [switch] $Yes,
    # Print what the API answers, one JSON object a line.
    [switch] $Json,
    [string] $Url = $(if ($env:DLQ_URL) { $env:DLQ_URL } else { 'http://127.0.0.1:8000' }),
    [string] $KeyFile
)

$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
Set-StrictMode -Version 2

function Stop-WithError([string] $Text) {
    [Console]::Error.WriteLine("replay-dlq: $Text")
    exit 1
}

function Remove-Control([string] $Text) {
    $Text -replace '\p{C}', ' '
}

# Asks the API and returns what is in `data`. Asked again up to $Tries times: no answer, 429 and 503.
function Invoke-Api([string] $Method, [string] $Path, [string] $Body, [string] $IdempotencyKey, [int] $Tries = 1) {
    $request = @{
        Method          = $Method
        Uri             = "$Url$Path"
        Headers         = @{ Authorization = "Api-Key $key"; Accept = 'application/json, application/problem+json' }
        UseBasicParsing = $true
        TimeoutSec      = 60
    }
    if ($IdempotencyKey) { $request.Headers['Idempotency-Key'] = $IdempotencyKey }
    if ($Body) {
        $request.Body = [Text.Encoding]::UTF8.GetBytes($Body)
        $request.ContentType = 'application/json'
    }
    for ($try = 1; ; $try++) {
        try {
            return (Invoke-RestMethod @request).data
        }
        catch {
            $status = 0
            $response = $_.Exception.PSObject.Properties['Response']
            if ($response -and $response.Value) { $status = [int] $response.Value.StatusCode }
            if ($try -lt $Tries -and $status -in 0, 429, 503) {
                Start-Sleep -Seconds ([Math]::Min(8, [Math]::Pow(2, $try - 1)))
                continue
            }
            if ($status -eq 0) { Stop-WithError "$Url does not answer: $(Remove-Control $_.Exception.Message)" }
            $told = if ($_.ErrorDetails) { $_.ErrorDetails.Message } else { $_.Exception.Message }
            try {
                $problem = $told | ConvertFrom-Json
                $told = "$($problem.code): $($problem.detail)"
            }
            catch { Write-Verbose 'The refusal is no problem document.' }
            Stop-WithError (Remove-Control "$status $told")
        }
    }
}

function Write-Answer($Data) {
    ConvertTo-Json -InputObject $Data -Depth 20 -Compress
}

function Format-Counts($Counts) {
    (@($Counts.PSObject.Properties | ForEach-Object { Remove-Control "$($_.Name) $($_.Value)" }) -join ', ')
}

# --- what was asked for ---

$Url = $Url.TrimEnd('/')
if ($Url -notmatch '^https?://.') { Stop-WithError "$Url is no http or https address" }
$key = if ($KeyFile) { (Get-Content -LiteralPath $KeyFile -TotalCount 1) } else { $env:DLQ_API_KEY }
if (-not $key) { Stop-WithError 'set DLQ_API_KEY, or give -KeyFile' }
if ($PSVersionTable.PSVersion.Major -lt 6) {
    # Windows PowerShell begins with what servers have long given up.
    [Net.ServicePointManager]::SecurityProtocol = [Net.ServicePointManager]::SecurityProtocol -bor [Net.SecurityProtocolType]::Tls12
}

# PowerShell takes what looks like a parameter and is none for one more id: without -Canary, say, for all letters at once.
foreach ($one in @($Id)) {
    if ("$one" -like '-*') { Stop-WithError "there is no parameter $one. If it is the id of a letter: -LiteralId '$one'" }
}
$filter = @{}
$lists = @{
    status = 'Status'; errorType = 'ErrorType'; errorKind = 'ErrorKind'; type = 'Type'; source = 'Source'
    priority = 'Priority'; tag = 'Tag'; fingerprint = 'Fingerprint'; client = 'Client'
    codeVersion = 'CodeVersion'; facet = 'Facet'; from = 'From'; to = 'To'; search = 'Search'
}
foreach ($field in $lists.Keys) {
    if (-not $PSBoundParameters.ContainsKey($lists[$field])) { continue }
    $values = @($PSBoundParameters[$lists[$field]])
    # Left out, an empty value would quietly mean any.
    # A tag, a source or an error type may be a space.
    $spaces = $field -in 'tag', 'source', 'errorType'
    if (@($values | Where-Object { -not $(if ($spaces) { "$_" } else { "$_".Trim() }) }).Count) { Stop-WithError "-$($lists[$field]) is empty" }
    $filter[$field] = $values
}
$order = @{}
if ($filter.Count) { $order.filter = $filter }
$ids = @(@($Id) + @($LiteralId) | Where-Object { $_ })
if ($ids) { $order.ids = $ids }
if ($All) { $order.all = $true }
if ($Poison) { $order.poison = $true }
if ($Name) { $order.name = $Name }
if ($Reason) { $order.reason = $Reason }
if ($Schedule) { $order.scheduledAt = $Schedule }
if ($PSBoundParameters.ContainsKey('Limit')) { $order.limit = $Limit }
if ($PSBoundParameters.ContainsKey('Rate')) { $order.ratePerSecond = $Rate }
if ($PSBoundParameters.ContainsKey('Canary')) {
    $order.canary = @{ size = $Canary }
    if ($PSBoundParameters.ContainsKey('MinSuccess')) { $order.canary.minSuccess = $MinSuccess }
}
elseif ($PSBoundParameters.ContainsKey('MinSuccess')) { Stop-WithError '-MinSuccess needs -Canary' }
if ($PSBoundParameters.ContainsKey('MaxFailures')) { $order.maxFailures = $MaxFailures }
if ($PSBoundParameters.ContainsKey('MaxFailureRate')) { $order.maxFailureRate = $MaxFailureRate }

# --- what would be replayed ---

$trial = $order.Clone()
$trial.dryRun = $true
$found = Invoke-Api POST '/api/dlq/replay-batch' (ConvertTo-Json -InputObject $trial -Depth 5)
if (-not $Json) {
    "$($found.count) letters would be replayed."
    if ($found.count) {
        "  by error type: $(Format-Counts $found.byErrorType)"
        "  by type: $(Format-Counts $found.byType)"
    }
    foreach ($left in @($found.leftOut)) { "  left out: $($left.count) $($left.why)" }
    if ($null -ne $found.failuresAtMost) { "  at most $($found.failuresAtMost) of them can fail before the batch stops by itself" }
}
elseif ($DryRun) { Write-Answer $found }
if ($DryRun) { exit 0 }
# Each id was meant; a filter may well fit letters that need no replay.
$leftOut = $ids -and @($found.leftOut | Where-Object { $_.why -ne 'limit' }).Count
if (-not $found.count) { exit $(if ($ids) { 2 } else { 0 }) }
if (-not $Yes) {
    if ([Console]::IsInputRedirected) { Stop-WithError 'nobody is there to answer; say -Yes' }
    if ((Read-Host "Replay $($found.count) letters? [y/N]") -notmatch '^(y|yes)$') { Stop-WithError 'nothing was started' }
}

# --- start ---

# A key of our own: a request whose answer was lost is repeated, and starts nothing twice.
$batch = Invoke-Api POST '/api/dlq/replay-batch' (ConvertTo-Json -InputObject $order -Depth 5) ([Guid]::NewGuid().ToString()) 6
$address = "/api/dlq/replay-batches/$($batch.batchId)"
if (-not $Wait) {
    if ($Json) { Write-Answer $batch } else { "Batch $($batch.batchId) with $($batch.total) letters: $Url$address" }
    exit 0
}

# --- wait ---

if (-not $Json) { "Batch $($batch.batchId). Ctrl-C leaves it running; end it: POST $Url$address/cancel" }
$looks = 0
while ($true) {
    $counts = $batch.counts
    if ($Json) { Write-Answer $batch }
    elseif ($looks++ % 3 -eq 0) {
        "$($batch.stage): $($counts.remaining) of $($batch.total) left, $($counts.succeeded) succeeded, $($counts.failed) failed, $($counts.skipped) skipped"
    }
    if ($batch.stage -in 'finished', 'cancelled', 'stopped' -and -not $counts.remaining) { break }
    Start-Sleep -Seconds 2
    # As long as a restart of everything may take.
    $batch = Invoke-Api GET $address -Tries 12
}
if (-not $Json) {
    $why = if ($batch.stopReason) { " ($(Remove-Control $batch.stopReason))" } else { '' }
    "Batch $($batch.batchId) is $($batch.stage)$($why): $($batch.total) letters"
    foreach ($row in @(Invoke-Api GET "$address/report" -Tries 5)) {
        Remove-Control "  $($row.count)  $($row.outcome)  $($row.errorType)"
    }
}
if ($batch.stage -ne 'finished' -or $counts.failed -or $counts.skipped -or $leftOut) { exit 2 }
exit 0
