"""Names for what the simulated world holds: topics and the words their titles are made of."""

from __future__ import annotations

import numpy as np

TOPIC_WORDS: dict[str, tuple[str, ...]] = {
    "animals": ("puppy", "kitten", "parrot", "otter", "pony"),
    "anime": ("opening", "fan art", "finale", "villain", "studio"),
    "architecture": ("bridge", "tower", "loft", "cathedral", "tiny house"),
    "astronomy": ("eclipse", "telescope", "comet", "black hole", "moon"),
    "baking": ("sourdough", "brownies", "croissant", "pie", "macaron"),
    "basketball": ("dunk", "buzzer beater", "crossover", "free throw", "playoffs"),
    "beauty": ("eyeliner", "skincare", "lipstick", "braids", "nail art"),
    "books": ("plot twist", "bookshelf", "poem", "trilogy", "library"),
    "camping": ("tent", "campfire", "hammock", "backpack", "trail"),
    "cars": ("engine", "drift", "restoration", "road test", "pit stop"),
    "chess": ("gambit", "endgame", "checkmate", "blitz", "blunder"),
    "cinema": ("trailer", "remake", "soundtrack", "stunt", "ending"),
    "comedy": ("sketch", "prank", "impression", "stand-up", "blooper"),
    "cooking": ("pasta", "curry", "omelette", "noodles", "stew"),
    "crafts": ("origami", "pottery", "candle", "mosaic", "paper lantern"),
    "cycling": ("climb", "sprint", "gravel ride", "time trial", "downhill"),
    "dance": ("routine", "duet", "freestyle", "salsa", "tap solo"),
    "drawing": ("portrait", "sketchbook", "shading", "watercolour", "doodle"),
    "economics": ("inflation", "interest rate", "auction", "trade", "market"),
    "electronics": ("circuit", "radio", "soldering", "robot arm", "sensor"),
    "fashion": ("outfit", "sneakers", "vintage coat", "runway", "denim"),
    "fishing": ("trout", "lure", "fly cast", "ice hole", "catch"),
    "fitness": ("push-up", "kettlebell", "plank", "warm-up", "stretch"),
    "football": ("penalty", "free kick", "derby", "nutmeg", "save"),
    "games": ("speedrun", "boss fight", "easter egg", "high score", "sandbox"),
    "gardening": ("tomatoes", "compost", "bonsai", "roses", "greenhouse"),
    "guitar": ("riff", "solo", "chord", "fingerpicking", "pedal"),
    "health": ("sleep", "posture", "breathing", "first aid", "hydration"),
    "history": ("empire", "shipwreck", "castle", "revolution", "mummy"),
    "knitting": ("scarf", "sweater", "cable stitch", "mittens", "blanket"),
    "languages": ("accent", "idiom", "alphabet", "tongue twister", "slang"),
    "magic": ("card trick", "vanishing coin", "escape", "mind reading", "sleight"),
    "mathematics": ("proof", "paradox", "prime", "puzzle", "infinity"),
    "parenting": ("bedtime", "lunchbox", "first steps", "homework", "playground"),
    "piano": ("etude", "ragtime", "improvisation", "waltz", "lullaby"),
    "programming": ("bug", "compiler", "one-liner", "refactor", "algorithm"),
    "sailing": ("regatta", "storm", "knot", "harbour", "spinnaker"),
    "skating": ("kickflip", "half-pipe", "ollie", "bowl", "grind"),
    "tennis": ("ace", "drop shot", "backhand", "tie-break", "volley"),
    "travel": ("night train", "street food", "island", "old town", "border"),
}
TOPICS = tuple(TOPIC_WORDS)
_FORMS = ("the {} nobody saw coming", "my first {}", "how to: {}", "{} in 60 seconds", "one more {}", "{}, explained")

AGE_GROUPS = ("13-17", "18-24", "25-34", "35-44", "45-54", "55+")
REGIONS = ("north", "south", "east", "west", "centre", "coast", "islands", "highlands")
DEVICES = ("phone", "tablet", "desktop", "tv")


def titles(topic: np.ndarray, word: np.ndarray, form: np.ndarray, number: np.ndarray) -> list[str]:
    """Short made-up titles: arrays [n] of topic index, and of any non-negative integers that choose the word and the
    form; `number` tells the videos of a pair apart."""
    phrases = [
        [form.format(word) for word in TOPIC_WORDS[name] for form in _FORMS] for name in TOPICS
    ]  # [topics][words x forms]
    choice = (word % len(TOPIC_WORDS[TOPICS[0]])) * len(_FORMS) + form % len(_FORMS)
    table = np.array(phrases, dtype=object)
    base = table[topic, choice]
    return [f"{text[0].upper()}{text[1:]} #{count}" for text, count in zip(base, number.tolist(), strict=True)]
