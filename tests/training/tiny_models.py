"""Model folders of tiny networks with random weights, as save_pretrained writes them."""

import functools

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    Dinov2Config,
    Dinov2Model,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

SENTENCES = (
    "push move slide the a to toward next of go flee from it red blue green yellow crimson moon cube star pentagon box",
    "left right top bottom center corner and with near table please bring over into away",
)
OTHERS = "tree house dog river music paper window garden ocean winter coffee engine"
WORDS = " ".join([*SENTENCES, OTHERS]).split()
SPECIAL = ["[PAD]", "[UNK]", "<image>"]


def tokenizer():
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]")


def seeded(make):
    """Writes a folder; the same weights each time, and the caller's random numbers stay as they are."""

    @functools.wraps(make)
    def write(folder):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            make(folder)
        tokenizer().save_pretrained(folder)
        return folder

    return write


@seeded
def bert(folder):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=64, max_position_embeddings=64, **sizes)).save_pretrained(folder)


SEES = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 16,
    "patch_size": 4,
}
READS = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "intermediate_size": 32,
    "vocab_size": 64,
}


@seeded
def siglip(folder):
    reads = {"vocab_size": 64, "max_position_embeddings": 64, **{each: SEES[each] for each in list(SEES)[:4]}}
    SiglipModel(SiglipConfig(vision_config=SEES, text_config=reads)).save_pretrained(folder)


@seeded
def dinov2(folder):
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 20, "patch_size": 4}
    model = Dinov2Model(Dinov2Config(**sizes))
    model.embeddings.mask_token.data.zero_()
    model.save_pretrained(folder)


@seeded
def smolvlm(folder):
    reads = {"model_type": "llama", "pad_token_id": 0, **READS}
    config = SmolVLMConfig(vision_config=SEES, text_config=reads, scale_factor=2, image_token_id=2)
    SmolVLMForConditionalGeneration(config).save_pretrained(folder)


@seeded
def paligemma(folder):
    reads = {"model_type": "gemma", "pad_token_id": 0, **READS}
    sees = {"model_type": "siglip_vision_model", "projection_dim": 32, **SEES}
    config = PaliGemmaConfig(vision_config=sees, text_config=reads, projection_dim=32, image_token_id=2)
    PaliGemmaForConditionalGeneration(config).save_pretrained(folder)
