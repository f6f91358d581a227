"""Makes questions about stories by rule, as files in the format of Prompt-with-Context.

  python experiments/story_questions.py [--config.texts=FILE] [--workdir DIR]
      [--config configs/story_questions.py] [--config.x.y=value]

Without flags, it makes the three questions that the built-in texts allow. The stages
finetune and evaluate of experiments/icformer.py read the files with
--config.manual_dir=DIR.
"""

import json

from launch import Config, launch

from memcomp.data.pwc import SPLITS, file_name
from memcomp.data.question_sets import QuestionSetConfig, question_sets
from memcomp.data.story_questions import KINDS
from memcomp.data.texts import read_texts, source_sha256
from memcomp.disk import write_whole
from memcomp.distributed import say
from memcomp.runs.cramming import environment
from memcomp.runs.files import SUMMARY, claim_workdir

DEFAULT_WORKDIR = "runs/story_questions"


def main(config: Config, workdir: str | None) -> None:
    """Makes the questions and writes the files."""
    cfg = QuestionSetConfig(**config.questions)
    texts = read_texts(config.texts, field=config.field, num_texts=config.num_texts)
    sets = question_sets((str(text) for _, text in texts), cfg)
    digest = source_sha256(config.texts, texts, field=config.field)
    about = {"texts": {"sha256": digest}, **environment()}
    folder = claim_workdir(workdir or DEFAULT_WORKDIR, config.to_dict(), about)
    for split in SPLITS:
        write_whole(folder / file_name(split), sets.lines(split))
        counts = sets.counts[split]
        kinds = ", ".join(f"{kind} {counts[kind]:,}" for kind in KINDS)
        questions, stories = counts["num_questions"], counts["num_stories"]
        file = folder / file_name(split)
        say(f"{file}: questions {questions:,} ({kinds}), stories {stories:,}")
    write_whole(folder / SUMMARY, json.dumps(sets.counts, indent=2) + "\n")


if __name__ == "__main__":
    launch(main, "story_questions.py")
