"""The JSON form of a trace: trace format 0.1 of dllm-viz (nishide-dev/dllm-viz), see docs/watching.md.

Dependencies are scalars of their target, named after their source; reasons are notes.
"""

import hashlib
import json
import math
from typing import Any

from ..files import code_version
from .records import Candidate, Pass, Recording


SCHEMA_VERSION = "0.1"
# Digits after the point that numbers keep.
_DIGITS = 4
_FIRST_FRAME = {"frameId": "f0", "ordinal": 0, "kind": "initial", "operations": []}


def form_of(recording: Recording) -> dict[str, Any]:
    """Return a recording as JSON types."""
    return _named({**_facts(recording), "frames": _frames(recording), "final": _final(recording)})


def opening_of(recording: Recording) -> dict[str, Any]:
    """Return the form of a recording that has just begun: without a pass, and without its last frame."""
    return _named({**_facts(recording), "frames": [_FIRST_FRAME]})


def frame_of(recording: Recording, number: int, each: Pass, before: tuple[int, ...]) -> dict[str, Any]:
    """Return the frame of a pass.

    Args:
        recording ([`Recording`]):
            What it belongs to.
        number (`int`):
            Its number, from 1.
        each ([`Pass`]):
            The pass.
        before (`tuple[int, ...]`):
            Token ids before it.
    """
    operations = _predicted(recording, each) + _changed(recording, each, before)
    for dependency in each.dependencies:
        facts = {"slotId": _slot(dependency.target), "name": f"dependency:{_slot(dependency.source)}"}
        operations.append({"type": "set-scalar", **facts, "value": round(dependency.value, _DIGITS)})
    frame_id = f"f{number}"
    notes = [
        {
            "annotationId": f"{frame_id}-{_slot(position)}",
            "kind": "note",
            "text": reason,
            "target": {"slotId": _slot(position), "frameId": frame_id},
            "provenance": "derived",
        }
        for position, reason in each.reasons.items()
    ]
    mask = recording.mask_token_id
    num_written = sum(new != mask and new != old for old, new in zip(before, each.tokens, strict=True))
    metrics = {"maskedCount": each.tokens.count(mask), "committedThisFrame": num_written, "forwardPasses": number}
    frame = {"frameId": frame_id, "ordinal": number, "kind": "denoise", "step": number}
    return {**frame, "operations": operations, "metrics": metrics, "annotations": notes}


def closing_of(recording: Recording) -> dict[str, Any]:
    """Return what a finished recording adds to its frames: the last one, and how it ended."""
    return {"frame": _last_frame(recording), "final": _final(recording)}


def _facts(recording: Recording) -> dict[str, Any]:
    """Return what is known before the first pass."""
    is_exact = recording.strategy.get("dependencies") == "exact"
    has_blocks = recording.settings is not None and recording.settings.num_blocks > 1
    mode = "semi-autoregressive" if has_blocks else "full-sequence"
    content: dict[str, Any] = {
        "source": {"adapter": "demask-hf", "adapterVersion": code_version()},
        "geometry": {"timeDomain": "discrete", "stateSpace": "token", "generationMode": mode},
        "generation": _generation(recording),
        "provenance": {
            "mode": "measured",
            "fields": {"dependency": "measured" if is_exact else "derived", "reasons": "derived"},
        },
        "prompt": _prompt(recording),
        "initial": {"checkpointId": "start", "frameOrdinal": -1, "slots": _slots(recording)},
    }
    if recording.model is not None:
        content["model"] = {"name": recording.model}
    if recording.tokenizer is not None:
        name = type(recording.tokenizer).__name__
        content["tokenizer"] = {"name": name, "maskTokenId": recording.mask_token_id}
    return content


def _named(content: dict[str, Any]) -> dict[str, Any]:
    # The same decoding has the same name.
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return {"schemaVersion": SCHEMA_VERSION, "traceId": f"demask-hf-{digest[:16]}", **content}


def _generation(recording: Recording) -> dict[str, Any]:
    facts: dict[str, Any] = {"algorithm": recording.strategy["name"], "totalSteps": len(recording.passes)}
    settings = recording.settings
    if settings is not None:
        facts |= {"blockLength": settings.block_length, "maxNewTokens": settings.num_new_tokens}
        limits = {"temperature": settings.temperature, "topP": settings.top_p, "topK": settings.top_k}
        facts |= {name: value for name, value in limits.items() if value is not None}
    fields = {name: _plain(value) for name, value in recording.strategy.items() if value is not None}
    return {**facts, "title": recording.title or recording.strategy["name"], "strategy": fields}


def _prompt(recording: Recording) -> dict[str, Any]:
    tokens = recording.first[: recording.begin]
    slots = [_slot(position) for position in range(len(tokens))]
    return {"text": recording.text_of(*tokens), "tokenIds": list(tokens), "slotIds": slots}


def _slots(recording: Recording) -> list[dict[str, Any]]:
    """Return the slots before the first pass."""
    slots = []
    for position, token in enumerate(recording.first):
        slot = {"slotId": _slot(position), "index": position}
        if token == recording.mask_token_id:
            slots.append({**slot, "state": "masked", "region": "completion"})
        else:
            region = "prompt" if position < recording.begin else "suffix"
            slots.append({**slot, **_written(recording, token), "state": "prompt", "region": region})
    return slots


def _frames(recording: Recording) -> list[dict[str, Any]]:
    """Return a frame for the start, one for each pass, and one for the end."""
    befores = (recording.first, *(each.tokens for each in recording.passes))
    # The tokens after the last pass come before no other.
    pairs = enumerate(zip(recording.passes, befores, strict=False), start=1)
    frames = [frame_of(recording, number, each, before) for number, (each, before) in pairs]
    return [_FIRST_FRAME, *frames, _last_frame(recording)]


def _last_frame(recording: Recording) -> dict[str, Any]:
    operations: list[dict[str, Any]] = []
    for position, token in enumerate(recording.decoded.tokens):
        slot = {"type": "set-token", "slotId": _slot(position)}
        if position in recording.decoded.dropped:
            operations.append({**slot, **_written(recording, token), "state": "padding"})
        elif recording.first[position] == recording.mask_token_id:
            operations.append({**slot, "state": "fixed"})
    number = len(recording.passes) + 1
    return {"frameId": f"f{number}", "ordinal": number, "kind": "final", "operations": operations}


def _final(recording: Recording) -> dict[str, Any]:
    tokens, dropped = recording.decoded.tokens, recording.decoded.dropped
    kept = [token for place, token in enumerate(tokens) if place >= recording.begin and place not in dropped]
    return {
        "text": recording.text_of(*kept, skip_special_tokens=True),
        "tokenIds": list(tokens),
        "finishReason": "completed",
        "totalForwardPasses": recording.decoded.num_forward_passes,
        "totalProbePasses": recording.decoded.num_probe_passes,
    }


def _predicted(recording: Recording, each: Pass) -> list[dict[str, Any]]:
    """Return the predictions at the candidates; those that wait get their token as a draft."""
    operations = []
    for candidate in each.candidates:
        operations.append(_distribution(recording, candidate))
        if each.tokens[candidate.position] == recording.mask_token_id:
            operations.append({**_token(recording, "set-token", candidate), "state": "proposed"})
    return operations


def _changed(recording: Recording, each: Pass, before: tuple[int, ...]) -> list[dict[str, Any]]:
    """Return what was written, and what was masked again."""
    found = {candidate.position: candidate for candidate in each.candidates}
    operations = []
    for position, (old, new) in enumerate(zip(before, each.tokens, strict=True)):
        slot = {"slotId": _slot(position)}
        if new == old:
            continue
        if new == recording.mask_token_id:
            operations.append({"type": "mask", **slot, "previousTokenId": old, "reason": "masked again"})
        elif position in found:
            operations.append({**_token(recording, "commit", found[position]), **_written(recording, new)})
        else:
            operations.append({"type": "commit", **slot, **_written(recording, new)})
    return operations


def _distribution(recording: Recording, candidate: Candidate) -> dict[str, Any]:
    """Return the operation with the most likely tokens of a candidate."""
    likely = [
        {**_written(recording, token), "probability": round(probability, _DIGITS), "rank": rank}
        for rank, (token, probability) in enumerate(candidate.likely)
    ]
    omitted = max(0.0, 1.0 - sum(probability for _, probability in candidate.likely))
    facts = {"entropy": round(candidate.entropy, _DIGITS), "omittedMass": round(omitted, _DIGITS)}
    return {"type": "set-distribution", "slotId": _slot(candidate.position), "candidates": likely, **facts}


def _token(recording: Recording, kind: str, candidate: Candidate) -> dict[str, Any]:
    """Return the operation that gives a candidate its token."""
    token = {"type": kind, "slotId": _slot(candidate.position), **_written(recording, candidate.token)}
    return {**token, "confidence": round(candidate.probability, _DIGITS)}


def _plain(value: Any) -> Any:
    """Return a field of a strategy as JSON has it: what it has no form for, such as infinity, as text."""
    is_plain = isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
    return value if is_plain else str(value)


def _written(recording: Recording, token: int) -> dict[str, Any]:
    return {"tokenId": token, "text": recording.text_of(token)}


def _slot(position: int) -> str:
    """Return the name of a position; rows are never reordered."""
    return f"s{position}"
