"""Whether an English text starts with a verb: a list of verbs, and the endings of the others, instead of a tagger."""

from __future__ import annotations

from autodeco_gguf.tasks.english import sentences, tokens

_BASE = frozenset(
    str.split(
        "accept access accompany achieve acknowledge act adapt add address adjust admire admit adopt adore advance "
        "advise afford agree aim allow amend analyse analyze announce answer anticipate apologise apologize appear "
        "apply appoint appreciate approach approve arise arrange arrive articulate ascend ask assemble assert assess "
        "assign assist assume assure attach attack attempt attend attract avoid await awaken back bake balance be bear "
        "beat become befriend beg begin behave behold believe belong bend bet beware bind bite blame blend bless blow "
        "boil book boost borrow break breathe brew bring broaden browse brush build burn bury buy calculate call calm "
        "cancel capture care carry carve cast catch cause celebrate challenge change charge chase chat check cheer "
        "cherish choose chop cite claim clarify classify clean clear click climb close coat collaborate collect color "
        "combine come comfort command comment commit communicate compare compete compile complete compose compute "
        "concentrate conclude conduct confess confide confirm confront connect conquer consider consist construct "
        "consult contact contain contemplate continue contrast contribute control convert convey convince cook cool "
        "copy correct count cover craft create criticise criticize cross crush cry cultivate cure cut dance dare deal "
        "debate decide declare decode decorate dedicate deduce deepen defend define delay delegate delete deliver "
        "delve demand demonstrate deny depart depend deploy describe deserve design desire detect determine develop "
        "devise dictate die differ differentiate dig dim diminish dip direct disagree discard discover discuss display "
        "dissolve distinguish distribute dive divide do document donate double download draft drag draw dream dress "
        "drink drive drop dry earn ease eat edit educate elaborate elevate eliminate embark embody embrace emerge "
        "emphasise emphasize employ empower emulate enable encounter encourage end endure energize engage enhance "
        "enjoy enlist ensure enter entertain envision erase escape establish estimate evaluate evoke evolve examine "
        "exceed exchange exclude excuse execute exercise exhale exist expand expect experience experiment explain "
        "explore export express extend extract face facilitate fail fall familiarise familiarize fasten favor fear "
        "feature feed feel fetch fight figure file fill filter finalize find finish fit fix flip float flow fly focus "
        "fold follow forbid force forecast foresee forget forgive form format formulate foster found frame free freeze "
        "fry fulfil fulfill function gain gather gaze generate get give glance glow go grab grant grasp greet grind "
        "grip grow guarantee guard guess guide handle hang happen harness harvest have heal hear hearken heat help "
        "hide highlight hike hire hit hold honor hop hope host hug hunt hurry identify ignite ignore illuminate "
        "illustrate imagine imitate immerse implement imply import improve include incorporate increase indicate "
        "indulge infer influence inform infuse ingest inhale initialize initiate innovate inquire insert inspect "
        "inspire install integrate intend interpret introduce invent invest investigate invite involve isolate jog "
        "join journey joke judge jump justify keep kick kill kindle kiss knead kneel knit knock know label land laugh "
        "launch lay lead leap learn leave lend let leverage lie lift light like limit link list listen live load "
        "locate lock log look loosen lose love lower lubricate maintain make manage map marinate mark marvel master "
        "match maximize mean measure meditate meet melt memorize mend mention merge migrate mimic mind minimize miss "
        "mix mobilize model modify monitor motivate mount move multiply name narrate navigate need negotiate nestle "
        "note notice notify nourish nurture obey observe obtain occur offer open operate optimise optimize opt order "
        "organise organize outline overcome own pack paint park participate pass pause pay peel perceive perform "
        "permit persist persuade phone pick picture pierce pin place plan plant play plead please pledge plot plug "
        "point polish ponder pop position post pour practice practise praise pray prefer prepare present preserve "
        "press pretend prevent print prioritise prioritize proceed process produce program promise promote prompt "
        "pronounce propose protect prove provide publish pull pump punch purchase pursue push put quantify question "
        "quit quote raise re-evaluate reach react read realise realize rearrange reassure rebuild recall receive "
        "recite recognise recognize recommend reconsider record recover recycle redefine reduce refer refine reflect "
        "refrain refresh refuse register reject rejoice relate relax release rely remain remake remember remind remove "
        "rename render rent reorganize repair repeat replace reply report represent request require rescue research "
        "resemble reserve reset resist resolve respect respond rest restart restore result retain retell rethink "
        "retire retrieve return reuse reveal reverse review revise revisit revive revolutionize reward rewrite ride "
        "ring rinse rise risk roam roast roll rotate rub run rush safeguard sail save savor say scale scan schedule "
        "scream scroll sculpt seal search season secure see seek seem segment select sell send separate serve set "
        "settle sew shake shape share sharpen shatter shed shift shine shoot shop shout show shuffle shut sift sign "
        "simmer simplify simulate sing sip sit sketch skip sleep slice slow smash smell smile soak soar solve soothe "
        "sort sound sow spark speak specify spell spend spin split spot sprinkle stack stand start state stay steal "
        "steam steer stick stir stop store strengthen stress stretch strike strive structure struggle study style "
        "submerge submit subscribe substitute subtract succeed suffer suggest sum summarise summarize supply support "
        "suppose surround survey survive suspect sustain swallow swap sway sweep swim swing switch tackle tailor take "
        "talk target taste teach team tear tell tend test thank think thrive throw tie tolerate touch tour trace track "
        "trade train transcend transfer transform translate transport travel traverse treasure treat trim trust try "
        "tune turn twist type uncover undergo underline understand undertake unfold unite unleash unlock unmute unpack "
        "unveil unwind update upgrade uphold upload urge use utilise utilize validate value vary venture verify view "
        "visit visualise visualize volunteer vote vow wait wake walk wander want warm warn wash waste watch wave wear "
        "weave weigh welcome whip whisk whisper win wipe wish withdraw witness wonder work worry wrap write yearn yell "
        "yield zip zoom"
    )
)

_FORMS = frozenset(
    str.split(
        # of the auxiliaries, and persons and pasts without "-ed"
        "am are is was were been has had does did done gets goes got gone came became began begun bought brought broke "
        "broken built born caught chose chosen comes crept cut dealt depends drawn drew driven drove ate eaten fallen "
        "fell felt flew forgot forgotten fought found froze frozen gave given gives grew grown heard held hidden kept "
        "knew known knows laid led left lit looks lost made makes means meant met paid ran said sang sat saw says "
        "seems seen sent shaken shook shot shown slept sold sought sounds spent spoke spoken stood stole stolen struck "
        "swam swept swum takes taken taught threw thrown thought told took turns understood woke won wore worn wove "
        "woven written wrote"
    )
)

_NO_VERBS = frozenset(
    str.split(
        "anything beijing ceiling darling during evening everything king morning nothing notwithstanding pudding "
        "something spring sterling string thing wedding wing bed hundred indeed infrared kindred naked red sacred seed "
        "sled ted weed wicked"
    )
)


def starts_with_verb(text: str) -> bool:
    """Whether the first word is in a list of verbs or ends as a participle does; before a colon it is a heading."""
    first, following, *_ = [*tokens((sentences(text) or [""])[0]), "", ""]
    word = first.lower()
    if following == ":" or word in _NO_VERBS:
        return False
    return word in _BASE or word in _FORMS or (len(word) > 4 and word.endswith(("ing", "ed")) and word.isalpha())
