"""The shape of the demonstration model."""

try:
    from transformers.configuration_utils import PreTrainedConfig as _Config  # 5.x
except ImportError:
    from transformers.configuration_utils import PretrainedConfig as _Config  # 4.x


class PhantomBonesConfig(_Config):
    """A picture of `image_size` squared becomes `num_img_tokens` places in the text."""

    model_type = "phantom-bones"
    keys_to_ignore_at_inference = ["past_key_values"]

    def __init__(
        self,
        vocab_size=384,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=160,
        num_img_tokens=100,
        channels=96,
        num_vision_layers=2,
        max_position_embeddings=256,
        **kwargs,
    ):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_attention_heads
        self.image_size = image_size
        self.num_img_tokens = num_img_tokens
        self.channels = channels
        self.num_vision_layers = num_vision_layers
        self.max_position_embeddings = max_position_embeddings
        # transformers 4.x ties lm_head to the embedding unless told not to; 5.x does not.
        kwargs.setdefault("tie_word_embeddings", False)
        super().__init__(**kwargs)
