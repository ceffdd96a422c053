"""Tiny random networks of the transformers package, saved in the hub's layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

FAMILIES = ("mask2former", "maskformer", "oneformer", "detr", "eomt", "eomt_dinov3")
LABELS = ("disc", "square", "grass", "sky")
"""Two things, then two kinds of stuff."""
_SWIN = {
    "model_type": "swin",
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 2, 2],
    "window_size": 2,
    "image_size": 64,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
_RESNET = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 8, 16, 16],
    "depths": [1, 1, 1, 1],
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
_MASK2FORMER = {
    "backbone_config": _SWIN,
    "feature_size": 32,
    "mask_feature_size": 32,
    "hidden_dim": 32,
    "encoder_feedforward_dim": 16,
    "dim_feedforward": 16,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_attention_heads": 2,
    "num_queries": 7,
    "train_num_points": 32,
}
_DETR = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "encoder_attention_heads": 8,
    "decoder_attention_heads": 8,
    "num_queries": 7,
}
_EOMT = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 64,
    "patch_size": 16,
    "num_blocks": 2,
    "num_queries": 7,
    "num_upscale_blocks": 1,
    "num_register_tokens": 1,
    "train_num_points": 32,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "mask2former": _MASK2FORMER,
    "maskformer": {
        "backbone_config": _SWIN,
        "decoder_config": {"model_type": "detr", **_DETR},
        "fpn_feature_size": 32,
        "mask_feature_size": 32,
    },
    "oneformer": {
        "backbone_config": _SWIN,
        "conv_dim": 32,
        "mask_dim": 32,
        "hidden_dim": 32,
        "encoder_feedforward_dim": 16,
        "dim_feedforward": 16,
        "encoder_layers": 1,
        "decoder_layers": 3,
        "query_dec_layers": 1,
        "num_attention_heads": 2,
        "num_queries": 7,
        "train_num_points": 32,
        "text_encoder_width": 16,
        "text_encoder_vocab_size": 64,
        "task_seq_len": 24,
        "text_encoder_context_length": 24,
        "text_encoder_n_ctx": 2,
    },
    "detr": {"backbone_config": _RESNET, "use_timm_backbone": False, **_DETR},
    "eomt": _EOMT,
    "eomt_dinov3": {**_EOMT, "intermediate_size": 32},
}
_CLASSES = {
    "mask2former": ("Mask2FormerConfig", "Mask2FormerForUniversalSegmentation"),
    "maskformer": ("MaskFormerConfig", "MaskFormerForInstanceSegmentation"),
    "oneformer": ("OneFormerConfig", "OneFormerForUniversalSegmentation"),
    "detr": ("DetrConfig", "DetrForSegmentation"),
    "eomt": ("EomtConfig", "EomtForUniversalSegmentation"),
    "eomt_dinov3": ("EomtDinov3Config", "EomtDinov3ForUniversalSegmentation"),
}
_PROCESSORS = {
    "mask2former": "Mask2FormerImageProcessor",
    "maskformer": "MaskFormerImageProcessor",
    "oneformer": "OneFormerImageProcessor",
    "detr": "DetrImageProcessor",
    "eomt": "EomtImageProcessor",
    "eomt_dinov3": "EomtImageProcessorFast",
}


def save_checkpoint(
    folder: Path, family: str, labels: tuple[str, ...] = LABELS, seed: int = 0, **options: Any
) -> Path:
    """Write a folder with random numbers; returns it."""
    import transformers

    config_name, network_name = _CLASSES[family]
    config = getattr(transformers, config_name)(
        **{**OPTIONS[family], **options}, id2label=dict(enumerate(labels))
    )
    torch.manual_seed(seed)
    network = getattr(transformers, network_name)(config)
    network.save_pretrained(folder)
    if family.startswith("eomt"):
        size = {"shortest_edge": 64, "longest_edge": 64}
    elif family == "mask2former":
        size = {"height": 64, "width": 64}
    else:
        size = {"shortest_edge": 64, "longest_edge": 96}
    processor = {
        "image_processor_type": _PROCESSORS[family],
        "size": size,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_pad": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "resample": 2,
    }
    if family == "oneformer":
        processor |= {"repo_path": "shi-labs/nowhere", "class_info_file": "nothing.json"}
        _save_tokenizer(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def _save_tokenizer(folder: Path) -> None:
    """Write the letters of the task as a vocabulary without merges."""
    letters = sorted(set("thetaskispanoptic"))
    words = [
        "<|startoftext|>",
        "<|endoftext|>",
        "th",
        *letters,
        *(f"{letter}</w>" for letter in letters),
    ]
    (folder / "vocab.json").write_text(json.dumps({word: id_ for id_, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\nt h\n")
