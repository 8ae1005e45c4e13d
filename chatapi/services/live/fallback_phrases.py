"""What people say against an answer, and what the box says when it has none, in the languages it may meet."""

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
"""What ends an answer and wants none itself."""
HUM = word_set("mhm mm hm hmm mmm mm-hmm mhmm uh uhh um huh uh-huh uhhuh hm-hmm ah aha oh ooh")
"""Words of a listener that are hardly words."""
BACKCHANNEL = HUM | word_set(
    "yeah yep yup yes okay ok right sure wow "
    "really nice cool great good alright well i see got it indeed exactly "
    "ja genau stimmt klar gut ach so achso oui ouais d'accord bon bien sí si claro vale ajá certo già sim tá pois goed"
)
"""Words of somebody who listens."""
INTERJECTION = word_set(
    "no nope wait but what why who when where how which sorry hey hello listen actually next again repeat pause skip "
    "back louder quieter slower faster continue help really wrong exit "
    "nein warte aber was warum wer wann wo wie moment weiter nochmal lauter leiser falsch hilfe "
    "non attends mais quoi pourquoi qui quand où comment encore suivant "
    "espera pero qué por quién cuándo dónde cómo otra siguiente "
    "aspetta ma cosa perché chi quando dove come ancora avanti não espere mas quê nee wacht maar wat waarom"
)
"""Words that interrupt by themselves; any other single word is more likely a noise that was taken for one."""

_SORRY = {
    "en": "I am sorry, something went wrong. Please try again.",
    "de": "Es tut mir leid, da ging etwas schief. Bitte versuche es noch einmal.",
    "fr": "Je suis désolé, quelque chose n'a pas marché. Veuillez réessayer.",
    "es": "Lo siento, algo ha salido mal. Inténtalo de nuevo, por favor.",
    "it": "Mi dispiace, qualcosa è andato storto. Riprova, per favore.",
    "pt": "Desculpe, algo deu errado. Tente outra vez, por favor.",
    "nl": "Het spijt me, er ging iets mis. Probeer het nog eens.",
}
_SLOW = {
    "en": "One moment, please.",
    "de": "Einen Moment bitte.",
    "fr": "Un instant, s'il vous plaît.",
    "es": "Un momento, por favor.",
    "it": "Un momento, per favore.",
    "pt": "Um momento, por favor.",
    "nl": "Een ogenblik alstublieft.",
}


def sorry(language: str) -> str:
    """Said where an answer failed."""
    return _SORRY.get(language, _SORRY["en"])


def slow(language: str) -> str:
    """Said where an answer takes long."""
    return _SLOW.get(language, _SLOW["en"])
