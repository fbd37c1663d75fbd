"""Generate interactively from a trained run: every strategy on each prompt you write.

python examples/generation_example.py            # the newest run
python examples/generation_example.py --run runs/my_run
echo "The future of AI is" | python examples/generation_example.py
"""

from __future__ import annotations

import argparse
import sys

from llm_trainer.common.errors import UserError
from llm_trainer.utils.generation import GenerationConfig
from llm_trainer.workflows.load import load_model

STRATEGIES = {
    "greedy": GenerationConfig(do_sample=False, max_new_tokens=40),
    "nucleus": GenerationConfig(temperature=0.8, top_p=0.9, do_sample=True, max_new_tokens=40),
    "top-k": GenerationConfig(top_k=50, temperature=0.7, max_new_tokens=40),
    "beam search": GenerationConfig(num_beams=5, temperature=1.0, max_new_tokens=40),
}


def main() -> int:
    """Read prompts until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default=None, help="a run's name or folder; left out: the newest run")
    options = parser.parse_args()
    try:
        loaded = load_model(options.run)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(loaded.description)
    if sys.stdin.isatty():
        print("Write a beginning, for example: Hello, I am a language model,    (Ctrl-D ends)")
    for line in sys.stdin:
        prompt = line.rstrip("\n")
        for name, config in STRATEGIES.items():
            print(f"--- {name}\n{loaded.generator.generate(prompt, config)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
