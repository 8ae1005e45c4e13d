"""Stop requests, backchannels and interjections of users, and the phrases spoken without a model, by language."""

from __future__ import annotations

from chatapi.text.sentence_splitter import word_set

STOP = word_set(
    "stop|stop it|stop stop|please stop|stop please|okay stop|ok stop|no stop|stop talking|be quiet|quiet|shut up|"
    "silence|enough|that's enough|thats enough|cancel|never mind|nevermind|halt|hush|"
    "stopp|hör auf|sei still|sei ruhig|ruhe|genug|abbrechen|"
    "arrête|arrêtez|arrête-toi|tais-toi|ça suffit|assez|"
    "para|detente|basta|basta ya|cállate|silencio|"
    "fermati|ferma|smettila|zitto|silenzio|pare|chega|silêncio|cala-te|hou op|stil|genoeg|zwijg",
    "|",
)
"""Utterances that end an answer and are not answered."""
FILLERS = word_set("mhm mm hm hmm mmm mm-hmm mhmm uh uhh um huh uh-huh uhhuh hm-hmm ah aha oh ooh")
"""Sounds of a listener."""
BACKCHANNEL = FILLERS | word_set(
    "yeah yep yup yes okay ok right sure wow "
    "really nice cool great good alright well i see got it indeed exactly "
    "ja genau stimmt klar gut ach so achso oui ouais d'accord bon bien sí si claro vale ajá certo già sim tá pois goed"
)
"""Words of a listener."""
INTERJECTION = word_set(
    "no nope wait but what why who when where how which sorry hey hello listen actually next again repeat pause skip "
    "back louder quieter slower faster continue help really wrong exit "
    "nein warte aber was warum wer wann wo wie moment weiter nochmal lauter leiser falsch hilfe "
    "non attends mais quoi pourquoi qui quand où comment encore suivant "
    "espera pero qué por quién cuándo dónde cómo otra siguiente "
    "aspetta ma cosa perché chi quando dove come ancora avanti não espere mas quê nee wacht maar wat waarom"
)
"""Single words that interrupt an answer; any other single word is more likely a wrongly transcribed noise."""

_FAILURE = {
    "en": "I am sorry, something went wrong. Please try again.",
    "de": "Es tut mir leid, da ging etwas schief. Bitte versuche es noch einmal.",
    "fr": "Je suis désolé, quelque chose n'a pas marché. Veuillez réessayer.",
    "es": "Lo siento, algo ha salido mal. Inténtalo de nuevo, por favor.",
    "it": "Mi dispiace, qualcosa è andato storto. Riprova, per favore.",
    "pt": "Desculpe, algo deu errado. Tente outra vez, por favor.",
    "nl": "Het spijt me, er ging iets mis. Probeer het nog eens.",
}
_DELAY = {
    "en": "One moment, please.",
    "de": "Einen Moment bitte.",
    "fr": "Un instant, s'il vous plaît.",
    "es": "Un momento, por favor.",
    "it": "Un momento, per favore.",
    "pt": "Um momento, por favor.",
    "nl": "Een ogenblik alstublieft.",
}


def failure_phrase(language: str) -> str:
    """Returns the phrase for an answer that failed."""
    return _FAILURE.get(language, _FAILURE["en"])


def delay_phrase(language: str) -> str:
    """Returns the phrase for an answer that takes long."""
    return _DELAY.get(language, _DELAY["en"])
