"""The shape of a checkpoint as small as it can be."""

try:
    from transformers.configuration_utils import PreTrainedConfig as _Config  # 5.x
except ImportError:
    from transformers.configuration_utils import PretrainedConfig as _Config  # 4.x


class SmallConfig(_Config):
    """Sizes only."""

    model_type = "small-bones"
    keys_to_ignore_at_inference = ("past_key_values",)

    def __init__(
        self,
        vocab_size=272,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=None,
        max_position_embeddings=512,
        **kwargs,
    ):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads or num_attention_heads
        self.max_position_embeddings = max_position_embeddings
        kwargs.setdefault("tie_word_embeddings", False)
        super().__init__(**kwargs)
