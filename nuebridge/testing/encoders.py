"""The rules of speech encoders."""

from __future__ import annotations

from functools import partial

import torch

from nuebridge.contracts import Frames, SpeechEncoder
from nuebridge.errors import AudioTooShortError
from nuebridge.testing.rules import Checks, NotApplicable, need, of_tensor, refused
from nuebridge.testing.subject import EncoderSubject, smallest
from nuebridge.testing.tools import gap, weighed

BATCH_SECONDS = (0.3, 3.0069375, 0.62, 1.0000625)
"""Clips of odd and even lengths in one batch; the second is 48,111 samples at 16 kHz, where rounded masks go wrong."""

SWEEP_SECONDS = (0.3, 0.3000625, 0.5, 0.777, 1.0, 1.0000625, 3.0068750, 3.0069375, 3.0070000)

TOLERANCE = 1e-4

encoders: Checks[EncoderSubject] = Checks()


@encoders.rule
def it_declares_itself(subject: EncoderSubject) -> None:
    """An encoder is a nuebridge.contracts.SpeechEncoder with sample_rate, hidden_size and frame_rate."""
    part = subject.part
    need(isinstance(part, SpeechEncoder), f"{type(part).__name__} is no SpeechEncoder")
    for name in ("sample_rate", "hidden_size", "frame_rate"):
        value = getattr(part, name, None)
        need(isinstance(value, int | float) and value > 0, f"{name} is {value!r}")
    for name in ("sample_rate", "hidden_size"):
        need(isinstance(getattr(part, name), int), f"{name} is {getattr(part, name)!r}, not a whole number")
    frames = subject.frames_of(10 * part.sample_rate)
    near = abs(frames - 10 * part.frame_rate) <= 2 + 0.5 * part.frame_rate
    need(near, f"frame_rate is {part.frame_rate} Hz, but 10 s give {frames} frames")


@encoders.rule
def frames_have_their_shape(subject: EncoderSubject) -> None:
    """forward gives Frames: features [B, F, E] of width hidden_size, lengths int64 [B], nothing NaN."""
    lengths = subject.samples(0.3, 0.62)
    with torch.no_grad():
        frames = subject.part(*subject.clips(lengths))
    need(isinstance(frames, Frames), f"forward gives {type(frames).__name__}")
    need(
        frames.features.shape[-1] == subject.part.hidden_size,
        f"features are {of_tensor(frames.features)}, hidden_size is {subject.part.hidden_size}",
    )
    need(frames.features.is_floating_point(), f"features are {of_tensor(frames.features)}")
    need(
        int(frames.lengths.max()) <= frames.features.shape[1],
        f"lengths {frames.lengths.tolist()} reach past the {frames.features.shape[1]} frames that there are",
    )
    need(bool(torch.isfinite(frames.features).all()), "features are not finite")


@encoders.rule
def output_lengths_are_whole_numbers(subject: EncoderSubject) -> None:
    """output_lengths takes lengths [B] and gives int64 [B], never negative, never fewer for a longer clip."""
    given = torch.arange(0, 2 * subject.part.sample_rate, max(1, subject.part.sample_rate // 997))
    found = subject.part.output_lengths(given)
    need(found.shape == given.shape and found.dtype == torch.int64, f"it gives {of_tensor(found)} for int64 [B]")
    need(int(found.min()) >= 0, f"it gives {int(found.min())} for {int(given[found.argmin()])} samples")
    falls = (found.diff() < 0).nonzero().flatten()
    need(not len(falls), f"a clip of {int(given[falls[:1] + 1].sum())} samples gives fewer frames than a shorter one")


def _gives(subject: EncoderSubject, count: int, samples: int) -> bool:
    return subject.frames_of(samples) >= count


@encoders.rule
def output_lengths_are_exact(subject: EncoderSubject) -> None:
    """output_lengths is exact: as many frames as forward gives, for every length of clip."""
    lengths = subject.samples(*SWEEP_SECONDS)
    for count in (1, 2, 3, 8, 21):
        edge = smallest(partial(_gives, subject, count), 3600 * subject.part.sample_rate)
        lengths += [edge, edge + 1, edge - 1]
    for length in sorted({one for one in lengths if one >= subject.shortest}):
        with torch.no_grad():
            frames = subject.part(*subject.clips([length]))
        told = subject.frames_of(length)
        given = [int(frames.lengths), int(frames.features.shape[1])]
        need(given[0] == told, f"{length} samples give {given[0]} frames, output_lengths says {told}")
        need(given[1] == told, f"{length} samples, alone, give features of {given[1]} frames for a length of {told}")


@encoders.rule
def padding_is_zero(subject: EncoderSubject) -> None:
    """Frames at or past a length are zero, and every frame before it is not."""
    with torch.no_grad():
        frames = subject.part(*subject.clips(subject.samples(*BATCH_SECONDS)))
    for row, length in enumerate(frames.lengths.tolist()):
        past = frames.features[row, length:]
        need(
            not past.any(),
            f"row {row} has frames of up to {float(past.abs().max() if past.numel() else 0):.3g} past "
            f"its length {length}",
        )
        empty = (frames.features[row, :length] == 0).all(-1).nonzero().flatten().tolist()
        need(not empty, f"row {row} has only zeros at frames {empty[:5]} of its {length}")


@encoders.rule
def a_batch_gives_what_single_clips_give(subject: EncoderSubject) -> None:
    """What a clip yields does not depend on what shares its batch (frames within 1e-4 in float32)."""
    lengths = subject.samples(*BATCH_SECONDS)
    clips, counts = subject.clips(lengths)
    with torch.no_grad():
        together = subject.part(clips, counts)
        wider = subject.part(torch.nn.functional.pad(clips, (0, 1733)), counts)
        for row, length in enumerate(lengths):
            alone = subject.part(clips[row : row + 1, :length], counts[row : row + 1])
            frames = int(alone.lengths)
            need(
                int(together.lengths[row]) == frames,
                f"a clip of {length} samples gives {frames} frames alone and {int(together.lengths[row])} in a batch",
            )
            for name, batch in (("a batch", together), ("a batch with more padding", wider)):
                difference = gap(alone.features[0, :frames], batch.features[row, :frames])
                need(
                    difference <= TOLERANCE,
                    f"a clip of {length} samples differs by {difference:.3g} between alone and {name}",
                )


@encoders.rule
def gradients_stay_within_a_clip(subject: EncoderSubject) -> None:
    """No gradient of a clip's frames reaches another clip or what lies past the clip's own end."""
    lengths = subject.samples(0.3, 0.62)
    clips, counts = subject.clips(lengths)
    clips.requires_grad_()
    frames = subject.fresh()(clips, counts)
    weighed(frames.features[0, : int(frames.lengths[0])].float()).backward()  # type: ignore[no-untyped-call]
    gradient = clips.grad
    if gradient is None:
        raise NotApplicable("its frames have no gradient with respect to the waveform")
    need(bool(torch.isfinite(gradient).all()), "the gradient with respect to the waveform is not finite")
    need(bool(gradient[0, : lengths[0]].any()), "no gradient reaches the clip itself")
    need(not gradient[1].any(), "frames of the first clip have a gradient with respect to the second")
    need(not gradient[0, lengths[0] :].any(), "frames have a gradient with respect to the padding after the clip")


@encoders.rule
def a_frozen_encoder_gives_no_graph(subject: EncoderSubject) -> None:
    """An encoder all of which is frozen gives frames without a graph."""
    part = subject.fresh().requires_grad_(False)
    need(not subject.output(part).requires_grad, "frames of a frozen encoder in eval mode require a gradient")


@encoders.rule
def clips_that_are_too_short_are_refused(subject: EncoderSubject) -> None:
    """A clip that gives no frame is an AudioTooShortError, alone and in a batch."""
    for length in sorted({subject.shortest - 1, 0}):
        with (
            refused(
                f"a clip of {length} samples (the shortest that gives a frame has {subject.shortest})",
                AudioTooShortError,
            ),
            torch.no_grad(),
        ):
            subject.part(*subject.clips([length]))
        with refused(f"a clip of {length} samples beside a longer one", AudioTooShortError), torch.no_grad():
            subject.part(*subject.clips([subject.samples(0.3)[0], length]))
