"""Tables of words for the spelling cleaner. Only words whose change is right in nearly every sentence."""

from __future__ import annotations

from functools import lru_cache

# British stem + endings -> American stem + the same endings.
_OUR = (
    "armour behaviour candour clamour colour demeanour discolour endeavour favour fervour flavour harbour honour "
    "humour labour neighbour odour parlour rancour rigour rumour saviour savour splendour tumour valour vapour vigour"
)
_OUR_ENDINGS = (
    "",
    "s",
    "ed",
    "ing",
    "ful",
    "fully",
    "able",
    "ably",
    "ite",
    "ites",
    "al",
    "ally",
    "er",
    "ers",
    "hood",
    "hoods",
    "less",
    "y",
)
_ISE = (
    "agonise apologise authorise capitalise categorise centralise characterise civilise colonise crystallise customise "
    "democratise digitise economise emphasise equalise familiarise fertilise finalise generalise globalise harmonise "
    "hospitalise hypnotise idealise immunise initialise industrialise italicise legalise legitimise liberalise "
    "localise materialise maximise mechanise memorise minimise mobilise modernise monopolise nationalise "
    "naturalise neutralise normalise optimise organise oxidise parameterise patronise penalise personalise polarise "
    "popularise prioritise privatise publicise randomise rationalise realise recognise regularise "
    "reorganise revolutionise scrutinise "
    "serialise socialise specialise stabilise standardise sterilise subsidise summarise symbolise sympathise "
    "synchronise synthesise tokenise unrecognise utilise vandalise visualise vocalise vectorise"
)
_ISE_ENDINGS = ("e", "ed", "es", "ing", "er", "ers", "able", "ation", "ations", "ational")
_YSE = "analyse catalyse electrolyse paralyse"
_YSE_ENDINGS = ("e", "ed", "ing", "er", "ers")
_DOUBLED = (
    "cancel channel counsel dial enamel equal fuel funnel grovel jewel label level libel marshal model panel pedal "
    "quarrel ravel revel rival shovel shrivel signal snivel spiral swivel total towel travel trowel tunnel unravel"
)
_DOUBLED_ENDINGS = ("ed", "ing", "er", "ers", "ings")
_PAIRS = (
    "centre:center centres:centers centred:centered theatre:theater theatres:theaters litre:liter litres:liters "
    "metre:meter metres:meters kilometre:kilometer kilometres:kilometers centimetre:centimeter centimetres:centimeters "
    "millimetre:millimeter millimetres:millimeters fibre:fiber fibres:fibers calibre:caliber sombre:somber "
    "spectre:specter spectres:specters lustre:luster meagre:meager sabre:saber sabres:sabers mitre:miter ochre:ocher "
    "manoeuvre:maneuver manoeuvres:maneuvers manoeuvred:maneuvered manoeuvring:maneuvering defence:defense "
    "defences:defenses offence:offense offences:offenses pretence:pretense pretences:pretenses licence:license "
    "licences:licenses grey:gray greys:grays greyish:grayish tyre:tire tyres:tires plough:plow ploughs:plows "
    "ploughed:plowed ploughing:plowing mould:mold moulds:molds moulded:molded moulding:molding mouldy:moldy "
    "moult:molt cheque:check cheques:checks programme:program programmes:programs aluminium:aluminum "
    "jewellery:jewelry pyjamas:pajamas sceptic:skeptic sceptics:skeptics sceptical:skeptical scepticism:skepticism "
    "storey:story storeys:stories kerb:curb kerbs:curbs ageing:aging fulfil:fulfill fulfils:fulfills "
    "fulfilment:fulfillment enrol:enroll enrols:enrolls enrolment:enrollment skilful:skillful skilfully:skillfully "
    "wilful:willful wilfully:willfully instalment:installment instalments:installments catalogue:catalog "
    "catalogues:catalogs catalogued:cataloged analogue:analog analogues:analogs paediatric:pediatric "
    "paediatrics:pediatrics paediatrician:pediatrician anaemia:anemia anaemic:anemic anaesthesia:anesthesia "
    "anaesthetic:anesthetic haemoglobin:hemoglobin haemorrhage:hemorrhage leukaemia:leukemia oestrogen:estrogen "
    "oesophagus:esophagus foetus:fetus foetal:fetal diarrhoea:diarrhea encyclopaedia:encyclopedia "
    "encyclopaedias:encyclopedias orthopaedic:orthopedic gynaecology:gynecology gynaecologist:gynecologist "
    "mediaeval:medieval caesium:cesium sulphur:sulfur sulphate:sulfate sulphuric:sulfuric moustache:mustache "
    "moustaches:mustaches cosy:cozy cosier:cozier draught:draft draughts:drafts "
    "judgement:judgment judgements:judgments acknowledgement:acknowledgment acknowledgements:acknowledgments "
    "practise:practice practised:practiced practises:practices practising:practicing marvellous:marvelous "
    "marvellously:marvelously woollen:woolen travelogue:travelog artefact:artifact artefacts:artifacts "
    "learnt:learned burnt:burned dreamt:dreamed spelt:spelled spoilt:spoiled "
    "tranquillity:tranquility chilli:chili chillies:chilies"
)

_MISSPELLINGS = (
    "abscence:absence accomodate:accommodate accomodation:accommodation accross:across acheive:achieve "
    "acheived:achieved acheivement:achievement acknowlege:acknowledge acquaintence:acquaintance adress:address "
    "adresses:addresses agressive:aggressive alot:a~lot amatuer:amateur anually:annually apparant:apparent "
    "apparantly:apparently appearence:appearance arguement:argument assasinate:assassinate assasination:assassination "
    "athiest:atheist attendence:attendance availible:available basicly:basically beautifull:beautiful becuase:because "
    "becasue:because begining:beginning beleive:believe beleived:believed beleives:believes benifit:benefit "
    "benifits:benefits bizzare:bizarre boundry:boundary bouyant:buoyant brillant:brilliant buisness:business "
    "calender:calendar catagory:category catagories:categories cemetary:cemetery changable:changeable cheif:chief "
    "collegue:colleague collegues:colleagues comming:coming commited:committed commitee:committee comitted:committed "
    "comparision:comparison completly:completely concensus:consensus concieve:conceive concious:conscious "
    "conciousness:consciousness congradulations:congratulations consistant:consistent consistantly:consistently "
    "contraversial:controversial convienent:convenient copywrite:copyright critisism:criticism critisize:criticize "
    "dacquiri:daiquiri decieve:deceive definately:definitely definatly:definitely definitly:definitely "
    "definate:definite dependance:dependence desparate:desperate developement:development diffrence:difference "
    "diffrent:different dilema:dilemma dissapear:disappear dissapeared:disappeared dissapoint:disappoint "
    "dissapointed:disappointed dissapointing:disappointing drunkeness:drunkenness embarass:embarrass "
    "embarassed:embarrassed embarassing:embarrassing enviroment:environment enviromental:environmental "
    "equiped:equipped equiptment:equipment exagerate:exaggerate excede:exceed excellant:excellent exellent:excellent "
    "existance:existence experiance:experience experianced:experienced extreem:extreme extremly:extremely "
    "facinating:fascinating familar:familiar febuary:february finaly:finally flourescent:fluorescent foriegn:foreign "
    "fourty:forty freind:friend freinds:friends futher:further gaurd:guard gaurantee:guarantee generaly:generally "
    "goverment:government govermental:governmental grammer:grammar grammatic:grammatical greatful:grateful "
    "guarentee:guarantee guidence:guidance happend:happened happyness:happiness harrass:harass harrassment:harassment "
    "heighth:height heirarchy:hierarchy hygeine:hygiene hypocracy:hypocrisy ignorence:ignorance immediatly:immediately "
    "imediately:immediately independant:independent independance:independence indispensible:indispensable "
    "innoculate:inoculate inteligence:intelligence intelligance:intelligence interupt:interrupt "
    "irrelevent:irrelevant jewelery:jewelry knowlege:knowledge knowledgable:knowledgeable labratory:laboratory "
    "liason:liaison libary:library lightening:lightening lisence:license loosing:losing maintainance:maintenance "
    "maintenence:maintenance managment:management medeval:medieval millenium:millennium millenia:millennia "
    "miniscule:minuscule mischievious:mischievous mispell:misspell mispelled:misspelled missle:missile "
    "misterious:mysterious morgage:mortgage neccessary:necessary necessery:necessary neccesary:necessary "
    "necesary:necessary neice:niece nieghbor:neighbor noticable:noticeable noticably:noticeably occassion:occasion "
    "occassional:occasional occassionally:occasionally occasionaly:occasionally occured:occurred occuring:occurring "
    "occurence:occurrence occurrance:occurrence occurences:occurrences oppurtunity:opportunity "
    "oportunity:opportunity orignal:original originaly:originally paralell:parallel parallell:parallel "
    "particulary:particularly pasttime:pastime peculier:peculiar peice:piece peices:pieces percieve:perceive "
    "percieved:perceived performence:performance perminent:permanent permanant:permanent persistant:persistent "
    "personell:personnel persue:pursue pharoah:pharaoh politican:politician posession:possession "
    "possesion:possession posible:possible potatos:potatoes practicaly:practically preceeding:preceding "
    "prefered:preferred prefering:preferring presance:presence privelege:privilege privilige:privilege "
    "priviledge:privilege probaly:probably probly:probably proffesional:professional professer:professor "
    "prominant:prominent pronounciation:pronunciation propoganda:propaganda psycology:psychology publically:publicly "
    "questionaire:questionnaire questionnair:questionnaire realy:really reccomend:recommend reccommend:recommend "
    "recomend:recommend recomended:recommended reciept:receipt recieve:receive recieved:received recieves:receives "
    "recieving:receiving recurrance:recurrence refering:referring refered:referred relevent:relevant "
    "religous:religious remeber:remember remebered:remembered repitition:repetition reponse:response "
    "resistence:resistance responsability:responsibility responsable:responsible restarant:restaurant "
    "restaraunt:restaurant resturant:restaurant rythm:rhythm rhythym:rhythm sacrafice:sacrifice "
    "sacreligious:sacrilegious sandwhich:sandwich saftey:safety scedule:schedule seige:siege seperate:separate "
    "seperated:separated seperately:separately seperation:separation sargent:sergeant shedule:schedule "
    "similiar:similar similarily:similarly sincerly:sincerely speach:speech strenght:strength strengh:strength "
    "succesful:successful successfull:successful succesfully:successfully succesfull:successful sucess:success "
    "sucessful:successful suprise:surprise suprised:surprised suprising:surprising supercede:supersede "
    "supression:suppression surveilance:surveillance tatoo:tattoo tendancy:tendency temperture:temperature "
    "tommorow:tomorrow tommorrow:tomorrow tomorow:tomorrow tounge:tongue truely:truly twelth:twelfth "
    "tyrany:tyranny unfortunatly:unfortunately unforseen:unforeseen untill:until usally:usually usefull:useful "
    "vaccum:vacuum vegatable:vegetable vehical:vehicle visable:visible wether:whether wierd:weird "
    "wich:which wellfare:welfare whereever:wherever writting:writing writen:written yeild:yield teh:the "
    "hte:the adn:and taht:that thier:their thsi:this waht:what woudl:would shoudl:should coudl:could"
)
# Pairs above that are words or names themselves are taken out here, so that the list can be compared with others.
_WORDS = frozenset(
    ["lightening", "loosing", "wether", "calender", "grammatic", "pasttime", "wich", "sargent", "athiest", "copywrite"]
)


@lru_cache(maxsize=1)
def british_to_american() -> dict[str, str]:
    """British spelling -> American spelling, lower case. No value is a key."""
    table = {}
    for stem in _OUR.split():
        for ending in _OUR_ENDINGS:
            table[stem + ending] = stem[:-3] + "or" + ending
    for stem in _ISE.split():
        for ending in _ISE_ENDINGS:
            table[stem[:-1] + ending] = stem[:-2] + "z" + ending
    for stem in _YSE.split():
        for ending in _YSE_ENDINGS:
            table[stem[:-1] + ending] = stem[:-2] + "z" + ending
    for stem in _DOUBLED.split():
        for ending in _DOUBLED_ENDINGS:
            table[stem + "l" + ending] = stem + ending
    table |= dict(pair.split(":") for pair in _PAIRS.split())
    return {british: american for british, american in table.items() if american not in table}


@lru_cache(maxsize=1)
def misspellings() -> dict[str, str]:
    """Misspelled -> correct, lower case."""
    pairs = (pair.split(":") for pair in _MISSPELLINGS.split())
    return {wrong: right.replace("~", " ") for wrong, right in pairs if wrong not in _WORDS and wrong != right}
