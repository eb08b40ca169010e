"""The errors a user may meet. Each message says what happened, why it matters and what to do."""


class SelfRewardingError(Exception):
    """Base of every error this library raises on purpose."""


class ConfigError(SelfRewardingError):
    """A plan, argument or template is wrong; raised before any training."""


class DataError(SelfRewardingError):
    """A data item cannot be used as it is."""


class GenerationError(SelfRewardingError):
    """Sampling cannot go on, for example because the logits are not numbers."""


class ServerError(SelfRewardingError):
    """A model behind HTTP cannot be reached, refuses, or replies what its protocol does not know."""


class JudgeError(SelfRewardingError):
    """A judge or reward function failed or gave something that is not a score."""


class TrainingError(SelfRewardingError):
    """An update would be meaningless, for example because the loss is not finite."""


class CheckpointError(SelfRewardingError):
    """A checkpoint or run folder is missing, altered, or belongs to another run."""


class ProcessError(SelfRewardingError):
    """A run on several processes cannot go on, because another of them has failed or ended."""
