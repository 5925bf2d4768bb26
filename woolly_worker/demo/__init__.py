"""The demo model: the file that ships with the package, and the scripts that made it. Importing this loads nothing."""

from pathlib import Path

DEMO_MODEL = Path(__file__).with_name("woolly-demo.gguf")

# To complete: the model goes on with the story.
SAMPLE_PROMPTS = (
    "Once upon a time",
    "Once upon a time there was a little fox",
    "Long ago, in a green valley, there lived",
    "There was once a shy dragon called",
)

# To ask through the chat template.
SAMPLE_QUESTIONS = (
    "Tell me a story about a fox.",
    "What is 7 + 8?",
    "What is the capital of France?",
    "What comes after 47?",
    "What does a sheep say?",
    "Which day comes after Friday?",
    "What is a bridge?",
)
