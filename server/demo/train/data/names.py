"""Names to copy: real cities, and made-up ones of many kinds. A model that has seen only a list of
cities learns the list; one that has seen random strings learns to copy."""

CITIES = """Beijing Paris London Berlin Tokyo Madrid Rome Vienna Oslo Stockholm Helsinki Lisbon Dublin
Athens Warsaw Prague Budapest Moscow Kyiv Istanbul Cairo Lagos Delhi Mumbai Shanghai Shenzhen Seoul
Osaka Bangkok Jakarta Manila Sydney Melbourne Auckland Toronto Montreal Vancouver Chicago Boston
Seattle Denver Houston Miami Bogota Santiago Hamburg Munich Cologne Frankfurt Geneva Amsterdam
Brussels Copenhagen Milan Naples Barcelona Porto Lyon Chengdu Hangzhou""".split()
TWO_WORD_CITIES = ["New York", "San Francisco", "Los Angeles", "Hong Kong", "Buenos Aires",
                   "Mexico City", "Cape Town", "Las Vegas"]

# Never used in training: evaluate.py asks for these.
UNSEEN_CITIES = """Reykjavik Nairobi Lima Montevideo Quito Havana Tallinn Riga Vilnius Zagreb
Ljubljana Sofia Bucharest Tbilisi Yerevan Tashkent Almaty Kathmandu Hanoi Brisbane Calgary
Guadalajara Leipzig Salzburg Krakow Seville Turin Marseille Wuhan Nanjing Kyoto Sapporo""".split()
UNSEEN_TWO_WORD_CITIES = ["San Diego", "New Delhi", "Tel Aviv", "Santa Cruz"]

PEOPLE = "Anna Bob Carla David Emma Felix Grace Hugo Ida Jonas Karin Leo Mia Noah Olga Peter".split()
UNSEEN_PEOPLE = "Tobias Yuki Fatima Werner".split()

WEATHER = ["Sunny", "Rain", "Cloudy", "Snow", "Fog", "Windy", "Light rain", "Heavy snow", "Clear",
           "Storm", "Partly cloudy", "Hot and dry"]
UNSEEN_WEATHER = ["Drizzle", "Hail", "Thunderstorm", "Mild and humid"]

_FIRST_WORDS = ["New", "San", "Port", "Saint", "Los", "East", "Old", "Fort", "Bad"]
_CONSONANTS = "b c d f g h k l m n p r s t v z br ch dr gr kr sh st th tr".split()
_VOWELS = "a e i o u ai ei ou ia".split()
_ENDS = ["", "", "n", "r", "s", "l", "ng", "ck", "m", "nd"]
_ACCENTS = {"a": "áãä", "e": "éè", "o": "öó", "u": "üú", "i": "í"}

_LOWER_CASE = """warm cold dry wet grey bright dark calm fresh cool icy muddy hazy pleasant rain snow wind
clouds showers later soon today mostly sun frost gusts heat""".split()


class Names:
    """Random names; `fragments` are the vocabulary's lower-case pieces."""

    def __init__(self, rng, fragments, real_share=0.3):
        self.rng, self.fragments, self.real_share = rng, fragments, real_share
        self.unseen = set(UNSEEN_CITIES) | set(UNSEEN_PEOPLE) | set(UNSEEN_WEATHER)

    def letters(self):
        """Random letters, at times of few kinds: what follows a letter then depends on more before."""
        alphabet = "abcdefghijklmnopqrstuvwxyz"
        if self.rng.random() < 0.3:
            alphabet = self.rng.sample(alphabet, self.rng.randint(2, 4))
        return "".join(self.rng.choice(alphabet) for _ in range(self.rng.randint(3, 9)))

    def syllables(self):
        parts = [self.rng.choice(_CONSONANTS) + self.rng.choice(_VOWELS)
                 for _ in range(self.rng.randint(1, 4))]
        return self.rng.choice(["", self.rng.choice(_VOWELS)]) + "".join(parts) + self.rng.choice(_ENDS)

    def soup(self):
        return "".join(self.rng.choice(self.fragments) for _ in range(self.rng.randint(1, 4)))

    def twist(self, name):
        """Doubles a letter or repeats a part, as in Sapporo or Guadalajara."""
        x = self.rng.random()
        if x < 0.25:
            i = self.rng.randrange(len(name))
            return name[:i] + name[i] + name[i:]
        if x < 0.45:
            i, n = self.rng.randrange(len(name)), self.rng.randint(1, 3)
            at = self.rng.randrange(len(name) + 1)
            return name[:at] + name[i:i + n] + name[at:]
        return name

    def word(self):
        while True:
            name = self.rng.choice([self.letters, self.syllables, self.syllables, self.soup])()
            if len(name) < 3:
                continue
            name = self.twist(name)
            if self.rng.random() < 0.04:
                i = self.rng.randrange(len(name))
                accents = _ACCENTS.get(name[i])
                name = name[:i] + (self.rng.choice(accents) if accents else name[i]) + name[i + 1:]
            name = name[0].upper() + name[1:]
            if name not in self.unseen:
                return name

    def made_up(self):
        if self.rng.random() < 0.15:
            first = self.rng.choice(_FIRST_WORDS) if self.rng.random() < 0.5 else self.word()
            return f"{first} {self.word()}"
        return self.word()

    def city(self):
        if self.rng.random() < self.real_share:
            if self.rng.random() < 0.12:
                return self.rng.choice(TWO_WORD_CITIES)
            return self.rng.choice(CITIES)
        return self.made_up()

    def person(self):
        return self.rng.choice(PEOPLE) if self.rng.random() < self.real_share else self.word()

    def weather(self):
        if self.rng.random() < 0.6:
            return self.rng.choice(WEATHER)
        first = self.word()
        x = self.rng.random()
        if x < 0.5:
            return first
        second = self.rng.choice(_LOWER_CASE) if self.rng.random() < 0.5 else self.word().lower()
        return f"{first} and {second}" if x < 0.75 else f"{first} {second}"

    def temperature(self):
        return self.rng.randint(-20, 45)
