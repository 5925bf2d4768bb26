"""What the demo model knows: short tables of common knowledge, and nothing that anybody could dispute."""

from __future__ import annotations

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon",
    "England": "London", "Ireland": "Dublin", "Norway": "Oslo", "Sweden": "Stockholm", "Denmark": "Copenhagen",
    "Finland": "Helsinki", "Poland": "Warsaw", "Austria": "Vienna", "Greece": "Athens", "Hungary": "Budapest",
    "Russia": "Moscow", "Japan": "Tokyo", "China": "Beijing", "Egypt": "Cairo", "Kenya": "Nairobi",
    "Canada": "Ottawa", "Cuba": "Havana", "Peru": "Lima", "Belgium": "Brussels",
}  # fmt: skip

OPPOSITES = (
    ("hot", "cold"), ("big", "small"), ("fast", "slow"), ("happy", "sad"), ("up", "down"), ("day", "night"),
    ("open", "closed"), ("wet", "dry"), ("old", "new"), ("long", "short"), ("hard", "soft"), ("full", "empty"),
    ("heavy", "light"), ("loud", "quiet"), ("rich", "poor"), ("strong", "weak"), ("clean", "dirty"),
    ("early", "late"), ("left", "right"), ("in", "out"), ("high", "low"), ("black", "white"), ("good", "bad"),
    ("near", "far"), ("first", "last"), ("true", "false"), ("yes", "no"), ("push", "pull"), ("thick", "thin"),
    ("sweet", "sour"), ("brave", "afraid"), ("awake", "asleep"), ("always", "never"), ("before", "after"),
    ("inside", "outside"), ("front", "back"), ("top", "bottom"), ("win", "lose"), ("buy", "sell"),
    ("begin", "end"), ("give", "take"), ("smooth", "rough"),
)  # fmt: skip

# Words of OPPOSITES whose other side would be ambiguous when asked for alone ("light", "short", "right").
ONE_WAY = frozenset({"light", "short", "right", "afraid", "closed", "new", "back", "end", "take", "cold", "sour"})

SOUNDS = {
    "dog": "woof", "cat": "meow", "cow": "moo", "sheep": "baa", "duck": "quack", "pig": "oink", "horse": "neigh",
    "lion": "roar", "mouse": "squeak", "bee": "buzz", "frog": "ribbit", "owl": "hoot", "snake": "hiss",
    "hen": "cluck", "wolf": "howl", "bird": "tweet", "donkey": "hee-haw",
}  # fmt: skip

BABIES = {
    "dog": "puppy", "cat": "kitten", "cow": "calf", "sheep": "lamb", "duck": "duckling", "pig": "piglet",
    "horse": "foal", "hen": "chick", "bear": "cub", "goat": "kid", "frog": "tadpole", "goose": "gosling",
}  # fmt: skip

HOMES = {
    "bird": "nest", "bee": "hive", "fish": "sea", "rabbit": "burrow", "horse": "stable", "spider": "web",
    "bear": "cave", "cow": "barn", "king": "castle", "fox": "den", "frog": "pond", "pig": "sty", "camel": "desert",
    "penguin": "cold south", "monkey": "jungle", "farmer": "farm", "sailor": "ship",
}  # fmt: skip

LEGS = {
    "dog": 4, "cat": 4, "spider": 8, "bee": 6, "ant": 6, "bird": 2, "snake": 0, "fish": 0, "horse": 4, "cow": 4,
    "duck": 2, "sheep": 4, "frog": 4, "fly": 6, "hen": 2, "table": 4,
}  # fmt: skip

# Thing and colour.
COLOURS = (
    ("grass", "green"), ("the sky", "blue"), ("snow", "white"), ("the sun", "yellow"),
    ("a banana", "yellow"), ("a lemon", "yellow"), ("blood", "red"), ("coal", "black"),
    ("a tomato", "red"), ("a strawberry", "red"), ("a carrot", "orange"),
    ("an orange", "orange"), ("chocolate", "brown"), ("milk", "white"), ("a frog", "green"),
    ("a polar bear", "white"), ("an elephant", "grey"), ("a flamingo", "pink"),
    ("a pea", "green"), ("the sea", "blue"), ("a crow", "black"), ("a swan", "white"),
    ("a pumpkin", "orange"), ("a cucumber", "green"), ("a fire engine", "red"),
    ("the night", "black"), ("a pig", "pink"), ("mud", "brown"), ("a leaf", "green"),
)  # fmt: skip

DEFINITIONS = {
    "hammer": "a tool for hitting nails",
    "saw": "a tool for cutting wood",
    "spoon": "a tool for eating soup",
    "knife": "a tool for cutting food",
    "broom": "a tool for sweeping the floor",
    "umbrella": "a thing that keeps rain off",
    "clock": "a thing that shows the time",
    "map": "a picture that shows the way",
    "boat": "a thing that carries people on water",
    "bridge": "a road over a river",
    "bakery": "a shop that sells bread",
    "library": "a place full of books",
    "school": "a place where children learn",
    "garden": "a place where flowers grow",
    "farm": "a place where animals are kept",
    "hospital": "a place where sick people get well",
    "island": "land with water all around it",
    "river": "water that runs to the sea",
    "mountain": "a very high hill",
    "forest": "a place with many trees",
    "desert": "a dry place with much sand",
    "rainbow": "a bow of colours in the sky",
    "cloud": "a lot of tiny drops in the sky",
    "apple": "a round fruit that grows on a tree",
    "banana": "a long yellow fruit",
    "carrot": "an orange root that we eat",
    "cake": "a sweet food for a party",
    "violin": "an instrument with four strings",
    "drum": "an instrument that you hit",
    "piano": "an instrument with black and white keys",
    "dog": "an animal that barks",
    "cat": "an animal that says meow",
    "whale": "a very big animal that lives in the sea",
    "bee": "an insect that makes honey",
    "spider": "a small animal with eight legs",
    "owl": "a bird that flies at night",
    "penguin": "a bird that swims but cannot fly",
    "lamb": "a young sheep",
    "puppy": "a young dog",
    "kitten": "a young cat",
    "doctor": "a person who helps sick people",
    "baker": "a person who bakes bread",
    "farmer": "a person who works on a farm",
    "teacher": "a person who helps children learn",
    "pilot": "a person who flies a plane",
    "sailor": "a person who works on a ship",
    "king": "a man who rules a country",
    "queen": "a woman who rules a country",
    "triangle": "a shape with three sides",
    "square": "a shape with four equal sides",
    "circle": "a shape that is perfectly round",
    "week": "seven days in a row",
    "kite": "a toy that flies in the wind",
    "bicycle": "a thing with two wheels that you ride",
    "candle": "a stick of wax that gives light",
    "winter": "the coldest part of the year",
    "summer": "the warmest part of the year",
    "ice": "frozen water",
    "wool": "the soft coat of a sheep",
    "bread": "a food made from flour",
}

# What takes no article in "What is X?".
MASS_NOUNS = frozenset({"winter", "summer", "ice", "wool", "bread"})

MAKERS = {
    "bread": "baker", "honey": "bee", "milk": "cow", "wool": "sheep", "an egg": "hen",
}  # fmt: skip

CATEGORIES = {
    "animal": ("dog", "cat", "cow", "horse", "lion", "fox", "bear", "rabbit", "sheep", "wolf", "mouse"),
    "fruit": ("apple", "banana", "pear", "cherry", "plum", "lemon", "peach", "grape"),
    "vegetable": ("carrot", "onion", "potato", "cabbage", "bean", "leek"),
    "colour": ("red", "blue", "green", "yellow", "black", "white", "pink", "brown"),
    "tool": ("hammer", "saw", "rake", "spade", "drill"),
    "bird": ("owl", "duck", "hen", "swan", "crow", "robin", "eagle"),
    "day": DAYS,
    "month": MONTHS,
}  # fmt: skip

PLURALS = {
    "mouse": "mice", "child": "children", "foot": "feet", "tooth": "teeth", "man": "men", "woman": "women",
    "goose": "geese", "sheep": "sheep", "fish": "fish", "leaf": "leaves", "wolf": "wolves", "knife": "knives",
    "baby": "babies", "city": "cities", "box": "boxes", "bus": "buses", "cat": "cats", "dog": "dogs", "book": "books",
    "tree": "trees", "house": "houses", "apple": "apples", "star": "stars", "cherry": "cherries", "potato": "potatoes",
}  # fmt: skip

PASTS = {
    "go": "went", "see": "saw", "eat": "ate", "run": "ran", "sing": "sang", "swim": "swam", "give": "gave",
    "take": "took", "come": "came", "find": "found", "make": "made", "write": "wrote", "fly": "flew", "buy": "bought",
    "sleep": "slept", "fall": "fell", "walk": "walked", "play": "played", "jump": "jumped", "help": "helped",
    "drink": "drank", "know": "knew", "say": "said", "think": "thought", "sit": "sat",
}  # fmt: skip

NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip

HOW_MANY = {
    "days are in a week": "There are 7 days in a week.",
    "months are in a year": "There are 12 months in a year.",
    "hours are in a day": "There are 24 hours in a day.",
    "minutes are in an hour": "There are 60 minutes in an hour.",
    "seconds are in a minute": "There are 60 seconds in a minute.",
    "seasons are in a year": "There are 4 seasons in a year.",
    "fingers are on a hand": "There are 5 fingers on a hand.",
    "sides does a triangle have": "A triangle has 3 sides.",
    "sides does a square have": "A square has 4 sides.",
    "wheels does a bicycle have": "A bicycle has 2 wheels.",
    "wheels does a car have": "A car has 4 wheels.",
    "letters are in the alphabet": "There are 26 letters in the alphabet.",
    "eyes do you have": "I have no eyes. I am a very small language model.",
}
