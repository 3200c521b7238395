"""Task text → goal tokens, through any `AutoModelForImageTextToText`, once per text.

The embedded default is a SmolVLM of a few hundred thousand parameters trained with the rest; a pretrained
model is loaded from a hub id or a folder and, by default, receives no gradient ("insulated").
"""

import json
import logging
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedTokenizerFast,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from hybridpolicy.configuration_hybrid import EMBEDDED, HybridConfig
from hybridpolicy.errors import ConfigurationError

logger = logging.getLogger(__name__)

TOKENIZER_FOLDER = "goal_tokenizer"
_SPECIAL = ("<pad>", "<unk>", "<image>")


def words_of(texts: list[str]) -> list[str]:
    """Sorted distinct words of the texts, split as the embedded tokenizer splits them."""
    splitter = pre_tokenizers.Sequence([pre_tokenizers.Whitespace()])
    return sorted({word for text in texts for word, _ in splitter.pre_tokenize_str(text.lower())})


def build_tokenizer(lexicon: list[str]) -> PreTrainedTokenizerFast:
    """Word-level tokenizer over a lexicon; a word outside it becomes `<unk>`.

    Raises:
        ConfigurationError: the lexicon is empty.
    """
    if not lexicon:
        raise ConfigurationError(
            "hybrid: the embedded goal encoder has no words; train on a dataset with task texts (their words "
            "become the lexicon), or, where nothing is asked for, set lexicon to any word, as "
            "lexicon='[\"task\"]', or name a pretrained goal_model"
        )
    vocabulary = {word: i for i, word in enumerate((*_SPECIAL, *dict.fromkeys(w.lower() for w in lexicon)))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")


def embedded_model(vocabulary_size: int) -> SmolVLMForConditionalGeneration:
    """A SmolVLM small enough to train with the policy (same class and code path as the pretrained ones)."""
    text = {
        "model_type": "llama",
        "vocab_size": vocabulary_size,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 128,
        "pad_token_id": 0,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
    }
    config = SmolVLMConfig(
        text_config=text, vision_config=vision, image_token_id=2, pad_token_id=0, scale_factor=2
    )
    model = SmolVLMForConditionalGeneration(config)
    # Words far apart from the start: with the usual 0.02 all sentences look alike for thousands of steps.
    nn.init.normal_(model.get_input_embeddings().weight, std=1.0)
    return model


class GoalEncoder(nn.Module):
    """Task texts → (B, G, D) goal tokens, computed once per distinct text.

    Attributes:
        forwards: passes through the language model so far, for the test that counts them.
        unknown_words: words of the last texts that the tokenizer does not know.
    """

    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        self.source, self.insulated = config.goal_model, config.goal_train == "insulated"
        if self.source == EMBEDDED:
            self.tokenizer = build_tokenizer(config.lexicon)
            self.model = embedded_model(len(self.tokenizer))
        else:
            processor = AutoProcessor.from_pretrained(self.source, revision=config.goal_revision)
            self.tokenizer = getattr(processor, "tokenizer", processor)
            self.model = AutoModelForImageTextToText.from_pretrained(
                self.source,
                revision=config.goal_revision,
                use_safetensors=True,
                dtype="auto" if self.insulated else torch.float32,  # bfloat16 weights cannot take small steps
            )
        self._keep_language_layers(config.goal_layers)
        hidden = self.model.config.get_text_config().hidden_size
        self.queries = nn.Parameter(torch.randn(config.goal_tokens, hidden))
        self.pool = nn.MultiheadAttention(hidden, num_heads=4, batch_first=True)
        with (
            torch.no_grad()
        ):  # attention sharp from the start: an average over all words hides the one that differs
            self.pool.in_proj_weight[: 2 * hidden] *= 1.7
        self.project = nn.Linear(hidden, config.width)
        self.norm = nn.LayerNorm(config.width)
        if self.insulated:
            self.model.requires_grad_(False)
        self.forwards = 0
        self.unknown_words: tuple[str, ...] = ()
        self._reported: set[str] = set()
        self._cache: dict[str, Tensor] = {}
        self._hidden: dict[str, Tensor] = {}  # of an insulated model, (N, hidden) a text
        self.register_load_state_dict_post_hook(lambda *_: self._forget())

    def _forget(self) -> None:
        """What texts mean is worked out again: the weights are others, or elsewhere."""
        self._cache.clear()
        self._hidden.clear()

    def _apply(self, *args: Any, **kwargs: Any) -> "GoalEncoder":
        self._forget()
        return super()._apply(*args, **kwargs)

    def _keep_language_layers(self, count: int | None) -> None:
        """Drops the language model's head and, if asked, all layers after the first `count`."""
        self.model.lm_head = nn.Identity()
        if count is None:
            return
        layers = self.model.model.text_model.layers if hasattr(self.model.model, "text_model") else None
        layers = self.model.model.language_model.layers if layers is None else layers
        if not 1 <= count <= len(layers):
            raise ConfigurationError(
                f"hybrid: goal_layers = {count}; {self.source} has {len(layers)} language layers, allowed 1 "
                f"… {len(layers)}"
            )
        del layers[count:]

    def train(self, mode: bool = True) -> "GoalEncoder":
        super().train(mode)
        self._cache.clear()
        if self.insulated:
            self.model.eval()
        return self

    def forward(self, texts: list[str]) -> Tensor:
        """(B texts) → (B, G, D). In evaluation, a text seen before costs nothing."""
        distinct = list(dict.fromkeys(texts))
        if self.training:
            encoded = dict(zip(distinct, self._encode(distinct), strict=True))
        else:
            fresh = [text for text in distinct if text not in self._cache]
            if fresh:
                goals = self._encode(fresh).to(self.queries.dtype)  # autocast may end before the cache does
                self._cache.update(zip(fresh, goals, strict=True))
            encoded = self._cache
        return torch.stack([encoded[text] for text in texts])

    def _encode(self, texts: list[str]) -> Tensor:
        """(U distinct texts) → (U, G, D)."""
        hidden, padding = self._read_frozen(texts) if self.insulated else self._read(texts)
        queries = self.queries.expand(len(texts), -1, -1)
        pooled, _ = self.pool(queries, hidden, hidden, key_padding_mask=padding, need_weights=False)
        return self.norm(self.project(pooled))

    def _read(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """One pass of the language model: hidden states (U, N, hidden) and where they are padding (U, N)."""
        tokens = self.tokenizer(texts, padding=True, return_tensors="pt").to(self.queries.device)
        self._note_unknown(texts, tokens["input_ids"])
        self.forwards += 1
        output = self.model.model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], use_cache=False
        )
        return output.last_hidden_state.to(self.queries.dtype), tokens["attention_mask"] == 0

    @torch.no_grad()
    def _read_frozen(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """The same of a model that never changes: each text is read once in the life of the policy."""
        fresh = [text for text in texts if text not in self._hidden]
        if fresh:
            hidden, padding = self._read(fresh)
            self._hidden |= {t: h[~p] for t, h, p in zip(fresh, hidden, padding, strict=True)}
        rows = [self._hidden[text].to(self.queries.device) for text in texts]
        lengths = torch.tensor([len(row) for row in rows], device=self.queries.device)
        joined = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return joined, torch.arange(joined.shape[1], device=lengths.device) >= lengths[:, None]

    def _note_unknown(self, texts: list[str], input_ids: Tensor) -> None:
        unknown_id = self.tokenizer.unk_token_id
        if unknown_id is None or not bool((input_ids == unknown_id).any()):
            self.unknown_words = ()
            return
        vocabulary = self.tokenizer.get_vocab()
        self.unknown_words = tuple(word for word in words_of(texts) if word not in vocabulary)
        fresh = set(self.unknown_words) - self._reported
        if fresh:
            self._reported |= fresh
            logger.warning(
                "hybrid: the goal encoder does not know %s and reads them as one unknown word; it knows the "
                "words of the tasks it was trained on",
                sorted(fresh),
            )

    def word_bags(self, texts: list[str]) -> Tensor:
        """(B texts) → (B, vocabulary) which tokens each holds, of unit length: alike as far as words are."""
        tokens = self.tokenizer(texts, padding=True, return_tensors="pt")
        bags = torch.zeros(len(texts), len(self.tokenizer))
        bags.scatter_(1, tokens["input_ids"], tokens["attention_mask"].float())
        return F.normalize(bags, dim=1).to(self.queries.device)

    def save_tokenizer(self, folder: Path) -> None:
        """Writes the tokenizer beside the weights, so that a checkpoint is whole on another machine."""
        target = folder / TOKENIZER_FOLDER
        target.mkdir(exist_ok=True)
        self.tokenizer.backend_tokenizer.save(str(target / "tokenizer.json"))
        facts = {"source": self.source, "vocabulary_size": len(self.tokenizer)}
        (target / "source.json").write_text(json.dumps(facts, indent=2))
