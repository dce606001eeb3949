"""The main job of model-surgery on real trained weights: `make demo`.

    python examples/demo.py [FOLDER]

Every line that begins with [ok] was checked; the first that does not hold ends the
demo with exit code 1. What it makes stays in FOLDER, and is replaced by the next run.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # where PyTorch's models are here; read when jax is imported

from demo_convert import and_back, there
from demo_page import heading, say, table
from demo_surgery import edit_while_training
from demo_transfer import transfer


def main(out: Path) -> None:
    """Run the four parts, and leave what they make in a folder."""
    began = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    print("model-surgery: trained models and their optimizer state, taken apart and put together.")
    print(
        "Parts 1 to 3 run on all-MiniLM-L6-v2, a trained model of 22.7 million parameters; part 4 on a small CNN."
    )
    there(out)
    and_back(out)
    transfer(out)
    edit_while_training(out)
    heading(f"Done in {time.monotonic() - began:.0f} seconds; everything held. What was made is in {out}/")
    table((name, f"{(out / name).stat().st_size:,} bytes", about) for name, about in MADE.items())
    say("Next: read examples/demo_transfer.py, it is the way most people begin.")


MADE = {
    "minilm.msgpack": "the Flax parameters",
    "minilm.msgpack.remainder.safetensors": "what Flax has no place for",
    "back/model.safetensors": "the checkpoint, converted back",
    "head.safetensors": "the trained head",
    "sort_channels.toml": "the plan of part 4 as a recipe",
}

if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo-output"))
