"""Pretrained models from a local folder: what transformers reads of it, and what of it is trained.

Safetensors alone, nothing from the network, no code of the folder. Three kinds: a text encoder makes one vector of each
text; a vision encoder makes a map of features of each picture; a vision-language model reads pictures and words in one
sequence. What stands on top of them and is ours, is in words.py, vision.py and vision_language.py.

    trained = heads   the model stays as it is; what it makes is kept, so that it runs once for each frame and text
              lora    low-rank adapters beside its linear layers are trained, and it stays as it is (arXiv 2106.09685)
              all     all of it is trained

A checkpoint holds what is trained, and names the model by its sum: a model that stays as it is, is no part of the
module's state.
"""

import json
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from training import computing
from training.model_folders import ModelFolder, ModelFolderError

LONGEST_TEXT = 64  # tokens
SHORTEST_SIDE = 144  # pixels, to which smaller pictures are enlarged for a network of convolutions
FEWEST_CELLS = 8  # along the shorter side of a map of features: the deepest map that has as many is taken
# Pictures: all that a model makes of them on its way lies in memory. A card is busy with no fewer.
AT_ONCE, AT_ONCE_ON_A_CARD = 32, 256
ANY_NUMBER_OF_PATCHES = ("dinov2",)  # models of patches whose positions are interpolated to a picture's shape
MOST_NUMBERS = 2**15  # of a map, which is kept for each frame: larger ones are averaged
MOST_CELLS, ENOUGH_CELLS = 16, 4  # along each side
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # where a folder doesn't say how pictures are scaled


@dataclass(frozen=True)
class Pretrained:
    """Which models stand for parts of a network, and what of them is trained."""

    models: Mapping[str, ModelFolder] = field(default_factory=dict)  # text | vision | vision_language -> its folder
    trained: str = "heads"  # | "lora" | "all"
    rank: int = 8  # of the adapters
    checkpointing: bool = False  # the backward pass computes layers again instead of keeping what they made

    def to_json(self) -> dict[str, Any]:
        """As a checkpoint names them; empty without any model."""
        if not self.models:
            return {}
        sums = {kind: model.sha256 for kind, model in self.models.items()}
        return {"models": sums, "trained": self.trained, "rank": self.rank}


NONE = Pretrained()


def _read(what: Any, folder: Path, **options: Any) -> Any:
    return what.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)


# Models that stay as they are, by sum and device: a policy, its reward model and the next version share one.
_SHARED: weakref.WeakValueDictionary[tuple[str, str], nn.Module] = weakref.WeakValueDictionary()


def model_of(pretrained: Pretrained, kind: str) -> nn.Module:
    """The model that stands for this; one of its own where it is trained."""
    folder = pretrained.models[kind]
    if pretrained.trained != "heads":
        return load_model(folder)
    key = folder.sha256, str(computing.now().device)
    model = _SHARED.get(key)
    if model is None:
        model = _SHARED[key] = load_model(folder)
    return model


def load_model(folder: ModelFolder) -> nn.Module:
    """The model of a folder, in float32. ModelFolderError where its weights aren't those of its architecture."""
    try:
        from transformers import AutoModel
        from transformers.utils import logging
    except ImportError:
        raise ModelFolderError(
            f"{folder.name} needs transformers, which is not installed here; run: pip install 'fleetui[pretrained]'"
        ) from None
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # heads for other tasks, which nobody reads here, are no news
    try:
        model, told = _read(AutoModel, folder.path, use_safetensors=True, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelFolderError(f"transformers can't read {folder.name}: {said[0]}") from None
    # A pooler or a head for another task may be missing: nobody reads it here.
    missing = sorted(name for name in told["missing_keys"] if "pooler" not in name and ".head." not in name)
    if missing:
        raise ModelFolderError(
            f"{folder.name} lacks {len(missing)} of its tensors, such as {missing[0]}; fetch the folder again."
        )
    return model


class Backbone(nn.Module):
    """A pretrained model. Never in training mode: nothing is dropped at random, and no statistics change."""

    def __init__(
        self,
        whole: nn.Module,
        pretrained: Pretrained,
        tower: str = "",
        adapted: Callable[[str], bool] = lambda name: True,
    ):
        """`tower`: the part of the model that is meant, where it has one of that name. `adapted`: whether a layer of
        that name gets an adapter.
        """
        super().__init__()
        self.computing = computing.now()
        self.device = self.computing.device
        self.at_once = AT_ONCE if self.device.type == "cpu" else AT_ONCE_ON_A_CARD
        whole.eval().requires_grad_(False).to(self.device)
        model = getattr(whole, tower, whole) if tower else whole
        self.learns = pretrained.trained != "heads"
        if pretrained.trained == "lora":
            self.adapter = _with_adapters(model, pretrained.rank, adapted)
        elif pretrained.trained == "all":
            self.whole = model.requires_grad_(True)
        if pretrained.checkpointing and self.learns:
            _compute_layers_again(model)
        # In a list, so that it is no part of this module's parameters and state. Another one may want the other tower.
        self._held = [model, whole]

    @property
    def model(self) -> Any:
        """What transformers made of the folder."""
        return self._held[0]

    def train(self, mode: bool = True) -> "Backbone":
        """The model stays in evaluation mode."""
        super().train(mode)
        self.model.eval()
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Backbone":
        super()._apply(fn, recurse)
        if not hasattr(self, "whole"):
            self.model._apply(fn)
        return self


def _with_adapters(model: nn.Module, rank: int, adapted: Callable[[str], bool]) -> nn.ParameterDict:
    """Low-rank adapters beside the model's linear layers, or its 1 x 1 convolutions where it has none."""
    from peft import LoraConfig, inject_adapter_in_model

    modules = [(name, each) for name, each in model.named_modules() if adapted(name)]
    names = [name for name, each in modules if isinstance(each, nn.Linear)] or [
        name for name, each in modules if isinstance(each, nn.Conv2d) and each.kernel_size == (1, 1)
    ]
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names), model)
    found = {name: each for name, each in model.named_parameters() if "lora_" in name}
    # A name of a parameter may hold no dot.
    return nn.ParameterDict({name.replace(".", "/"): each.requires_grad_(True) for name, each in found.items()})


def _compute_layers_again(model: nn.Module) -> None:
    for modules in model.modules():
        for layer in modules if isinstance(modules, nn.ModuleList) else ():
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


class Tokens:
    """A folder's own tokenizer."""

    def __init__(self, folder: ModelFolder):
        from transformers import AutoTokenizer

        try:
            self.tokenizer = _read(AutoTokenizer, folder.path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise ModelFolderError(f"transformers can't read the tokenizer of {folder.name}: {said[0]}") from None

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """[n] texts -> token numbers [n, length], -1 behind the end"""
        rows = self.tokenizer(list(texts), truncation=True, max_length=LONGEST_TEXT)["input_ids"]
        length = max(map(len, rows))
        return torch.tensor([row + [-1] * (length - len(row)) for row in rows])

    def common_words(self, count: int) -> list[str]:
        """Whole words of small letters that the tokenizer knows, evenly from all that it does, at most `count`."""
        words = sorted(word for word in self.tokenizer.get_vocab() if word.isascii() and word.isalpha())
        words = [word for word in words if word.islower() and 3 <= len(word) <= 10]
        return words[:: max(1, len(words) // count)][:count]


class TextEncoder(Backbone):
    """Texts -> a vector of length 1 each: the mean of what the model makes of their tokens."""

    def __init__(self, pretrained: Pretrained):
        folder = pretrained.models["text"]
        model = model_of(pretrained, "text")
        super().__init__(model, pretrained, tower="text_model")
        self.tokens = Tokens(folder)
        self.width: int = self.model.config.hidden_size

    def forward(self, tokens: Tensor) -> Tensor:
        """[n, length], -1 behind the end -> [n, width]"""
        mask = tokens >= 0
        with self.computing.layers():
            made = self.model(input_ids=tokens.clamp(min=0), attention_mask=mask.long()).last_hidden_state.float()
        return F.normalize((made * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), dim=-1)

    def vectors(self, texts: Sequence[str]) -> Tensor:
        """[n] texts -> [n, width], as it is now; nothing is learned by it"""
        with torch.no_grad():
            parts = [self(self.tokens(texts[at : at + 64]).to(self.device)) for at in range(0, len(texts), 64)]
        return torch.cat(parts)


class Scaling:
    """Pictures as a model of this folder wants them."""

    def __init__(self, folder: Path):
        told: dict[str, Any] = {}
        if (folder / "preprocessor_config.json").is_file():
            told = json.loads((folder / "preprocessor_config.json").read_text())
        mean, deviation = told.get("image_mean") or IMAGENET[0], told.get("image_std") or IMAGENET[1]
        if told.get("do_normalize") is False:  # from 0 to 1, whatever stands beside it
            mean, deviation = (0.0,) * 3, (1.0,) * 3
        self.mean, self.deviation = (torch.tensor(each).view(1, 3, 1, 1) for each in (mean, deviation))

    def __call__(self, pictures: Tensor, size: tuple[int, int]) -> Tensor:
        """uint8 [n, H, W, 3] -> [n, 3, *size]"""
        seen = pictures.permute(0, 3, 1, 2).float() / 255
        if seen.shape[2:] != size:
            seen = F.interpolate(seen, size, mode="bilinear", antialias=True, align_corners=False)
        self.mean, self.deviation = self.mean.to(seen), self.deviation.to(seen)  # there already, but the first time
        return (seen - self.mean) / self.deviation


def _side(config: Any) -> int | None:
    """Pixels of the square pictures that a model of patches was trained on; None: it takes any."""
    size = getattr(config, "image_size", None) if getattr(config, "patch_size", None) else None
    return size[0] if isinstance(size, (list, tuple)) else size


def _size(config: Any, height: int, width: int) -> tuple[int, int]:
    """To which a model's pictures are scaled. It takes their shape where it can, and no more than it needs to tell
    FEWEST_CELLS places apart along the shorter side: a picture of twice the side costs four times as much.
    """
    if config.model_type in ANY_NUMBER_OF_PATCHES:
        cells = FEWEST_CELLS / min(height, width)
        return round(height * cells) * config.patch_size, round(width * cells) * config.patch_size
    if side := _side(config):
        return side, side
    enlarged = max(1.0, SHORTEST_SIDE / min(height, width))
    return round(height * enlarged), round(width * enlarged)


class PictureEncoder(Backbone):
    """Pictures -> a map of features each: patches of a transformer, or a deep layer of a network of convolutions."""

    def __init__(self, pretrained: Pretrained, height: int, width: int):
        """`height` and `width` of the pictures, in pixels."""
        folder = pretrained.models["vision"]
        model = model_of(pretrained, "vision")
        super().__init__(model, pretrained, tower="vision_model")
        self.scaling = Scaling(folder.path)
        self.size = _size(self.model.config, height, width)
        self.layer: int | None = None
        with torch.no_grad():
            self.layer, shape = self._choose(torch.zeros(1, 3, *self.size, device=self.device))
        self.channels = shape[0]
        most = min(MOST_CELLS, max(ENOUGH_CELLS, int((MOST_NUMBERS / self.channels) ** 0.5)))
        self.cells = min(shape[1], most), min(shape[2], most)

    def _choose(self, pictures: Tensor) -> tuple[int | None, tuple[int, ...]]:
        """Which layer of convolutions is taken, None for a model of patches, and the shape of its map."""
        made = self.model(pixel_values=pictures, output_hidden_states=True)
        if made.last_hidden_state.dim() == 3:
            each = self._patches(made.last_hidden_state)
            return None, tuple(each.shape[1:])
        maps = made.hidden_states
        fine = [number for number, each in enumerate(maps) if min(each.shape[2:]) >= FEWEST_CELLS]
        layer = max(fine, default=len(maps) - 1)
        return layer, tuple(maps[layer].shape[1:])

    def _patches(self, made: Tensor) -> Tensor:
        """[n, patches, C], perhaps with other tokens before them -> [n, C, h, w]"""
        rows, columns = (side // self.model.config.patch_size for side in self.size)
        return made[:, made.shape[1] - rows * columns :].transpose(1, 2).unflatten(2, (rows, columns))

    def forward(self, pictures: Tensor) -> Tensor:
        """uint8 [n, H, W, 3] -> [n, C, h, w]"""
        return torch.cat([self._map(part) for part in pictures.split(self.at_once)])

    def _map(self, pictures: Tensor) -> Tensor:
        seen = self.scaling(pictures, self.size)
        with self.computing.layers():
            if self.layer is None:
                each = self._patches(self.model(pixel_values=seen).last_hidden_state)
            else:
                each = self.model(pixel_values=seen, output_hidden_states=True).hidden_states[self.layer]
        each = each.float()
        return each if tuple(each.shape[2:]) == self.cells else F.adaptive_avg_pool2d(each, self.cells)


class PicturesAndWords(Backbone):
    """A vision-language model: pictures and a text in one sequence -> what it makes of its end."""

    def __init__(self, pretrained: Pretrained):
        folder = pretrained.models["vision_language"]
        # Adapters for what reads the sequence; what sees the pictures stays, so that it runs once for each frame.
        super().__init__(model_of(pretrained, "vision_language"), pretrained, adapted=lambda name: "vision" not in name)
        self.tokens, self.scaling = Tokens(folder), Scaling(folder.path)
        config = self.model.config
        self.side, self.width = int(_side(config.vision_config) or 224), int(config.get_text_config().hidden_size)
        self.sees_anew = pretrained.trained == "all"
        with torch.no_grad():
            black = torch.zeros(1, self.side, self.side, 3, dtype=torch.uint8, device=self.device)
            self.tokens_a_picture = self.look(black).shape[1]

    def look(self, pictures: Tensor) -> Tensor:
        """uint8 [n, H, W, 3] -> the tokens that the model makes of each picture [n, tokens, width]"""
        return torch.cat([self._look(part) for part in pictures.split(self.at_once)])

    def _look(self, pictures: Tensor) -> Tensor:
        seen = self.scaling(pictures, (self.side, self.side))
        if self.model.config.model_type != "paligemma":  # those that take several pictures of each row
            seen = seen[:, None]
        with self.computing.layers():
            made = self.model.get_image_features(pixel_values=seen).pooler_output
        return (torch.stack(list(made)) if isinstance(made, (list, tuple)) else made).float()

    def forward(self, seen: Tensor, tokens: Tensor) -> Tensor:
        """Tokens of pictures [n, m, width], token numbers [n, length], -1 behind the end -> [n, width]"""
        words = self.model.get_input_embeddings()(tokens.clamp(min=0))
        mask = torch.cat([torch.ones_like(seen[..., 0], dtype=torch.long), (tokens >= 0).long()], 1)
        sequence = torch.cat([seen.to(words), words], 1)
        options = {}
        if self.model.config.model_type == "paligemma":  # reads its whole prompt in both directions
            options["token_type_ids"] = torch.zeros_like(mask)
        with self.computing.layers():
            made = self.model(inputs_embeds=sequence, attention_mask=mask, use_cache=False, **options).last_hidden_state
        last = mask.sum(1) - 1  # the last word
        return made.float()[torch.arange(len(made), device=self.device), last]
