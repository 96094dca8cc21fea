"""The rules of bridges."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from nuebridge.contracts import Bridge, Frames
from nuebridge.errors import AudioTooShortError, SizeMismatchError
from nuebridge.testing.rules import Checks, NotApplicable, need, of_tensor, refused
from nuebridge.testing.subject import WIDTHS, BridgeSubject
from nuebridge.testing.tools import gap, weighed

LENGTHS = [40, 75, 23, 60, 31]
TOLERANCE = 1e-4

bridges: Checks[BridgeSubject] = Checks()


@bridges.rule
def it_joins_its_neighbours(subject: BridgeSubject) -> None:
    """A Bridge takes its widths from its neighbours, and says SizeMismatchError to those it cannot join."""
    need(isinstance(subject.part, Bridge), f"{type(subject.part).__name__} is no Bridge")
    for sizes in (subject.sizes, subject.sizes[::-1], (13, 40), (20, 20)):
        try:
            bridge = subject.build(*sizes).eval()
        except SizeMismatchError:
            need(sizes != subject.sizes, f"it joins none of the widths {WIDTHS}")
            continue
        declared = bridge.input_size, bridge.output_size
        need(declared == sizes, f"built for widths {sizes}, it declares {declared}")
        with torch.no_grad():
            out = bridge(subject.frames([40, 23], width=sizes[0]))
        need(isinstance(out, Frames), f"forward gives {type(out).__name__}")
        need(out.features.shape[-1] == sizes[1], f"built for widths {sizes}, it gives {of_tensor(out.features)}")


@bridges.rule
def positions_have_their_shape(subject: BridgeSubject) -> None:
    """forward gives Frames: features [B, A, D], lengths int64 [B] of at least 1, nothing NaN."""
    with torch.no_grad():
        out = subject.part(subject.frames(LENGTHS))
    need(out.features.is_floating_point(), f"features are {of_tensor(out.features)}")
    need(int(out.lengths.min()) >= 1, f"lengths are {out.lengths.tolist()}")
    need(
        int(out.lengths.max()) <= out.features.shape[1],
        f"lengths {out.lengths.tolist()} reach past the {out.features.shape[1]} positions that there are",
    )
    need(bool(torch.isfinite(out.features).all()), "features are not finite")


@bridges.rule
def output_lengths_are_whole_numbers(subject: BridgeSubject) -> None:
    """output_lengths gives int64 [B], never negative, never fewer for more frames."""
    given = torch.arange(0, 500)
    found = subject.part.output_lengths(given)
    need(found.shape == given.shape and found.dtype == torch.int64, f"it gives {of_tensor(found)} for int64 [B]")
    need(int(found.min()) >= 0, f"it gives {int(found.min())} for {int(given[found.argmin()])} frames")
    falls = (found.diff() < 0).nonzero().flatten()
    need(not len(falls), f"{falls[:1].tolist()} frames give more positions than one frame more")


@bridges.rule
def output_lengths_hold(subject: BridgeSubject) -> None:
    """output_lengths is exact, or an upper bound where lengths_are_exact is False."""
    bridge = subject.part
    for length in [*range(subject.shortest, subject.shortest + 20), 48, 49, 97, 150]:
        with torch.no_grad():
            out = bridge(subject.frames([length]))
        given, told = int(out.lengths), int(bridge.output_lengths(torch.tensor([length])))
        if bridge.lengths_are_exact:
            need(given == told, f"{length} frames give {given} positions, output_lengths says {told}")
        need(given <= told, f"{length} frames give {given} positions, more than output_lengths allows ({told})")


@bridges.rule
def padding_is_zero(subject: BridgeSubject) -> None:
    """Positions at or past a length are zero, and every position before it is not."""
    with torch.no_grad():
        out = subject.part(subject.frames(LENGTHS, extra=5))
    for row, length in enumerate(out.lengths.tolist()):
        past = out.features[row, length:]
        need(
            not past.any(),
            f"row {row} has positions of up to {float(past.abs().max() if past.numel() else 0):.3g} "
            f"past its length {length}",
        )
        empty = (out.features[row, :length] == 0).all(-1).nonzero().flatten().tolist()
        need(not empty, f"row {row} has only zeros at positions {empty[:5]} of its {length}")


@bridges.rule
def a_batch_gives_what_single_clips_give(subject: BridgeSubject) -> None:
    """What a clip yields does not depend on what shares its batch (positions within 1e-4 in float32)."""
    frames = subject.frames(LENGTHS)
    padded = _padded(frames, 9)
    with torch.no_grad():
        together, wider = subject.part(frames), subject.part(padded)
        for row, length in enumerate(LENGTHS):
            alone = subject.part(frames.rows(slice(row, row + 1)))
            count = int(alone.lengths)
            for name, batch in (("a batch", together), ("a batch with more padding", wider)):
                in_batch = int(batch.lengths[row])
                need(in_batch == count, f"{length} frames give {count} positions alone and {in_batch} in {name}")
                difference = gap(alone.features[0, :count], batch.features[row, :count])
                need(difference <= TOLERANCE, f"{length} frames differ by {difference:.3g} between alone and {name}")


@bridges.rule
def gradients_stay_within_a_clip(subject: BridgeSubject) -> None:
    """Gradients reach the frames of a clip itself, and never those of another clip."""
    frames = subject.frames([23, 40])
    frames.features.requires_grad_()
    out = subject.fresh()(frames)
    weighed(out.features[0, : int(out.lengths[0])]).backward()  # type: ignore[no-untyped-call]
    gradient = frames.features.grad
    need(gradient is not None, "its positions have no gradient with respect to the frames")
    assert gradient is not None
    need(bool(torch.isfinite(gradient).all()), "the gradient with respect to the frames is not finite")
    need(bool(gradient[0, :23].any()), "no gradient reaches the frames of the clip itself")
    need(not gradient[1].any(), "positions of the first clip have a gradient with respect to the second")


@bridges.rule
def target_lengths_are_taken(subject: BridgeSubject) -> None:
    """A bridge takes the target lengths of a training step, and gives at least one position for each text."""
    bridge = subject.fresh().train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        out = bridge(subject.frames([40, 23]), torch.tensor([6, 3]))
    need(int(out.lengths.min()) >= 1, f"lengths are {out.lengths.tolist()} for texts of 6 and 3 tokens")
    if bridge.lengths_are_exact:
        told = bridge.output_lengths(torch.tensor([40, 23])).tolist()
        need(out.lengths.tolist() == told, f"in training, lengths are {out.lengths.tolist()}, not {told}")
    for name, loss in out.losses.items():
        need(loss.dim() == 0 and bool(torch.isfinite(loss)), f"the auxiliary loss {name!r} is {loss!r}")


@bridges.rule
def auxiliary_losses_are_handed_on(subject: BridgeSubject) -> None:
    """Auxiliary losses that come with the frames are handed on."""
    loss = torch.tensor(1.25)
    with torch.no_grad():
        out = subject.part(replace(subject.frames([40, 23]), losses={"of-before": loss}))
    found = out.losses.get("of-before")
    need(found is not None and float(found) == 1.25, f"losses are {dict(out.losses)} where of-before came with 1.25")


@bridges.rule
def clips_that_are_too_short_are_refused(subject: BridgeSubject) -> None:
    """A clip that gives no position is an AudioTooShortError, alone and in a batch."""
    for length in sorted({subject.shortest - 1, 0}):
        what = f"a clip of {length} frames (the shortest that gives a position has {subject.shortest})"
        with refused(what, AudioTooShortError), torch.no_grad():
            subject.part(subject.frames([length]))
        with refused(f"a clip of {length} frames beside a longer one", AudioTooShortError), torch.no_grad():
            subject.part(subject.frames([40, length]))


@bridges.rule
def extreme_ctc_logits_are_taken(subject: BridgeSubject) -> None:
    """A bridge that reads CTC logits gives a position whatever they say: all blank, one long run, no blank."""
    for what, best in (("all blank", [0] * 40), ("one long run", [3] * 40), ("no blank", [1, 2, 3, 4] * 10)):
        logits = 20.0 * torch.nn.functional.one_hot(torch.tensor([best]), 7).float()
        frames = subject.frames([40])
        with torch.no_grad():
            out = subject.part(Frames(frames.features, frames.lengths, logits))
        need(int(out.lengths) >= 1, f"logits that say {what} give {int(out.lengths)} positions")
        need(bool(torch.isfinite(out.features).all()), f"logits that say {what} give features that are not finite")


@bridges.rule
def other_widths_are_refused(subject: BridgeSubject) -> None:
    """The weights of a bridge of other widths are a CheckpointError (or the widths a SizeMismatchError)."""
    if not list(subject.part.parameters()):
        raise NotApplicable("it has no weights")
    folder = subject.new_folder()
    subject.fresh().save(folder)
    sizes = subject.sizes[0] + 3, subject.sizes[1] + 3
    with refused(f"a checkpoint of widths {subject.sizes} read for widths {sizes}"):
        subject.ref.load().load(folder, *sizes, subject.options)


def _padded(frames: Frames, extra: int) -> Frames:
    def pad(tensor: Tensor) -> Tensor:
        return torch.nn.functional.pad(tensor, (0, 0, 0, extra))

    assert frames.ctc_logits is not None
    return Frames(pad(frames.features), frames.lengths, pad(frames.ctc_logits))
