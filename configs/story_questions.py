r"""Questions about stories: who, where, what color; each with one right answer.

  python experiments/story_questions.py --config.texts=FILE --workdir runs/questions
  python experiments/icformer.py --config configs/icformer/builtin.py:icformer,16 \
      --config.stage=finetune --config.start=fresh --config.manual_dir=runs/questions \
      --config.question.template=plain --workdir runs/finetuned

The first takes seconds for some hundreds of stories, and the second fine-tunes on the
questions. FILE has stories in plain English, such as those of TinyStories.
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/story_questions.py reads."""
    config = config_dict.ConfigDict()
    config.texts = "builtin"  # what memcomp.data.texts reads: a file, a folder, ...
    config.field = "text"  # of a .jsonl row or column of a .csv file
    config.num_texts = -1  # all
    # Passed as QuestionSetConfig(**config.questions).
    config.questions = config_dict.create(
        seed=0,
        num_words=40,  # most words of a context
        test_part=0.2,  # of the stories
    )
    return config
