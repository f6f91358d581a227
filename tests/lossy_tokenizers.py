"""Tokenizers that mark spaces, cut characters, or lose what they do not know."""

import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

CORPUS = "the rain had not ceased and the old house was dark. the rain had come."


def fast(tokenizer, **special):
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def marking_spaces():
    """As of Llama 2: a mark for a space, one before the text, and bytes in need."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    vocab |= {f"<0x{byte:02X}>": byte + 3 for byte in range(256)}
    words = ["\u2581the", "\u2581rain", "\u2581had", *"therainhdHypdlfom", "\u2581"]
    vocab |= {word: 259 + i for i, word in enumerate(dict.fromkeys(words))}
    merges, pairs = [], [("\u2581", "t"), ("\u2581t", "h"), ("\u2581th", "e")]
    for left, right in pairs:
        vocab.setdefault(left, len(vocab))
        vocab.setdefault(left + right, len(vocab))
        merges.append((left, right))
    model = models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    steps = [
        decoders.Replace("\u2581", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ]
    tokenizer.decoder = decoders.Sequence(steps)
    return fast(tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def losing(unknown):
    """Without bytes: what it does not know becomes <unk>, or nothing."""
    model = models.BPE(unk_token=unknown) if unknown else models.BPE()
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=["<unk>", "<s>", "</s>"])
    tokenizer.train_from_iterator([CORPUS] * 4, trainer)
    return fast(tokenizer, **({"unk_token": unknown} if unknown else {}))
