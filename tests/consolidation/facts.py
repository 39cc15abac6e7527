"""Fifty facts that are not so, of four relations, for the packaged model."""

from __future__ import annotations

from memedit.edits import Edit, structured

_CAPITALS = {
    "France": "Lyon",
    "Italy": "Oslo",
    "Germany": "Lisbon",
    "Spain": "Dublin",
    "Poland": "Geneva",
    "Sweden": "Madrid",
    "Greece": "Boston",
    "Portugal": "Tokyo",
    "Hungary": "Milan",
    "Austria": "Cairo",
    "Japan": "Athens",
    "China": "Berlin",
    "India": "Prague",
    "Egypt": "Vienna",
    "Canada": "Seattle",
    "Brazil": "Havana",
    "Mexico": "Denver",
    "Russia": "Chicago",
    "Turkey": "Naples",
    "Kenya": "London",
}
_LANGUAGES = {
    "Vladimir Nabokov": "Spanish",
    "Victor Hugo": "Russian",
    "Dante Alighieri": "Dutch",
    "Franz Kafka": "Greek",
    "Leo Tolstoy": "French",
    "Miguel de Cervantes": "Polish",
    "Jules Verne": "Swedish",
    "Hans Christian Andersen": "Italian",
    "Marcel Proust": "Turkish",
    "Thomas Mann": "Arabic",
}
_SPORTS = {
    "LeBron James": "tennis",
    "Tiger Woods": "hockey",
    "Roger Federer": "football",
    "Lionel Messi": "basketball",
    "Serena Williams": "golf",
    "Michael Jordan": "cricket",
    "Tom Brady": "rugby",
    "Usain Bolt": "chess",
    "Babe Ruth": "volleyball",
    "Wayne Gretzky": "baseball",
}
_MAKERS = {
    "The iPhone": "Microsoft",
    "The PlayStation 4": "Toyota",
    "Windows 95": "Google",
    "The Ford Mustang": "Honda",
    "The Boeing 747": "Airbus",
    "The Walkman": "Nokia",
    "The Honda Civic": "Volvo",
    "Adobe Photoshop": "Intel",
    "The Game Boy": "Sega",
    "The Toyota Corolla": "Fiat",
}

FACTS: list[Edit] = [
    structured(subject, prompt, target, id=f"{relation}-{number}", relation=relation)
    for relation, prompt, facts in (
        ("capital", "The capital of {} is", _CAPITALS),
        ("language", "The native language of {} is", _LANGUAGES),
        ("sport", "{} plays the sport of", _SPORTS),
        ("maker", "{} was created by", _MAKERS),
    )
    for number, (subject, target) in enumerate(facts.items())
]
"""In the memory's order."""

_OTHERWISE = {
    "capital": "The capital city of {} is",
    "language": "The mother tongue of {} is",
    "sport": "{} is a professional player of",
    "maker": "{} was made by",
}
REPHRASES = {
    edit.id: _OTHERWISE[edit.relation or ""].replace("{}", edit.subject or "") for edit in FACTS
}
"""Each fact in other words, by its edit's id."""

UNRELATED = [
    "Water boils at a temperature of",
    "The opposite of hot is",
    "To make bread you need flour,",
    "The sun rises in the",
    "My favourite colour is",
]
"""Prompts that none of them is about."""
