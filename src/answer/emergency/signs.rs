//! The rules by which danger is seen: what people write who are in it.

use crate::knowledge::dangers::{
    CHILD, FIRE, GAS, MEDICAL, MISSING, POISON, POLICE, SUICIDE, VIOLENCE,
};

/// Words that stand for many, in rules as `@NAME`.
pub(super) const GROUPS: [(&str, &str); 8] = [
    (
        "@PERSON",
        "mann|frau|kind|kinder|sohn|tochter|baby|mutter|vater|mama|papa|oma|opa|bruder|schwester|\
         freund|freundin|nachbar*|jemand|person|er|sie|partner|partnerin|kollege|kollegin|kumpel|\
         radfahrer*|schueler*|enkel*|mensch|junge|maedchen|kleine|kleiner|onkel|tante|gast",
    ),
    (
        "@YOUNG",
        "kind|kinder|baby|junge|jungen|maedchen|kleinkind|nachbarsjunge|nachbarskind*|nichte|\
         neffe|schueler|schuelerin|enkel|enkelin|kleine|saeugling",
    ),
    (
        "@NEAR",
        "mann|frau|freund|freundin|partner|partnerin|ex|exmann|exfrau|exfreund|ehemann|ehefrau|\
         verlobter|er|sie|sohn|bruder|enkel|pfleger|schwiegersohn|lebensgefaehrte",
    ),
    (
        "@PARENT",
        "vater|mutter|papa|mama|eltern|stiefvater|stiefmutter|pflegeeltern|onkel|opa|trainer|\
         mamas|bruder|vadda",
    ),
    (
        "@HITS",
        "schlaegt|schlagen|schlaege|geschlagen|verpruegelt|gepruegelt|pruegelt|misshandelt|\
         misshandeln|wuergt|gewuergt|haut|zugeschlagen|getreten|schlagt|schlogt|verdroschen|\
         geschubst|schubst|geohrfeigt|ohrfeigt",
    ),
    (
        "@SWALLOWED",
        "verschluckt|geschluckt|schluckt|getrunken|trinkt|gegessen|isst|eingeatmet|gemischt|\
         gelutscht|eingenommen|verschluckte|gekaut|genascht",
    ),
    (
        "@POISON",
        "knopfzelle|*batterie|*reiniger|spuel*|putzmittel|chlor*|frostschutz*|*tablette|\
         *tabletten|pille|pillen|*beere|*beeren|pilz|pilze|duenger|benzin|lampenoel|gift|\
         *gift|schneckenkorn|waschmittel*|tab|tabs|maigloeckchen|eibe|tollkirsche*|\
         medikament|medikamente|magnet|magnete|entkalker|bleiche|goldregen|fingerhut|saeure|\
         terpentin|spiritus|weichspueler",
    ),
    (
        "@OVER",
        "gestern|vorgestern|letzte|letzten|letztes|letzter|damals|frueher|jahren|monat|monaten|\
         wochen|zeuge|zeugin|geladen|bericht|versicherung|*schutz|beratung|anzeige|beantrage*|\
         urkunde|sterbeurkunde|rente|witwenrente|bestattung|beerdigung|schmerzensgeld",
    ),
];

/// Request, and the words that must all be there, in any order: folded, alternatives with `|`, a
/// `*` for any beginning or ending, groups joined by ` + `; words after ` - ` must not be there.
pub(super) const SIGNS: &[(&str, &str)] = &[
    // Whoever does not want to live needs somebody to talk to at once.
    (
        SUICIDE,
        "ich|mich|i + mich umbringen|mich erschiessen|mich erhaengen|mich aufhaengen|mich \
         toeten",
    ),
    (
        SUICIDE,
        "ich + bring|bringe + mich + um - verstand|nerven|spass|lachen",
    ),
    (
        SUICIDE,
        "ich|i + haeng|haenge + mich + auf - telefon|hoerer",
    ),
    (
        SUICIDE,
        "sich umbringen|sich was antun|sich etwas antun|sich das leben nehmen|mir was antun|\
         mir etwas antun",
    ),
    (SUICIDE, "mir + das leben nehmen"),
    (SUICIDE, "bringt man sich + um"),
    (
        SUICIDE,
        "will|moechte|wuerde|wollen|mag|mog + sterben|tot sein|nicht mehr da sein|nicht mehr \
         aufwachen|nich mehr aufwachn|nimmer leben|nimma lem - zuhause|hause|daheim|hospiz|\
         heim|pflege*",
    ),
    (
        SUICIDE,
        "ich|er|sie|i|will|mag|moechte + nicht mehr leben|nicht mehr weiterleben|nicht \
         weiterleben|nicht laenger leben|nix mehr leben|nicht mehr weiter leben|das leben \
         nicht mehr|nich mehr leben - zusammen|hier|stadt|deutschland|wohnung|miete|beruf|\
         rente|lohn|geld|davon",
    ),
    (
        SUICIDE,
        "denke|denk|denkt + ans sterben|an den tod|an selbstmord|an suizid - testament|vorsorge",
    ),
    (
        SUICIDE,
        "abschiedsbrief*|suizidgedanken|selbstmordgedanken|lebensmuede|suizidgefaehrdet",
    ),
    (
        SUICIDE,
        "suizid|selbstmord + will|moechte|denke|denkt|gedanken|droht|kurz",
    ),
    (
        SUICIDE,
        "ich + bruecke|bahngleis*|gleis|gleise|hochhaus|dach + springen|spring|springe|\
         ueberlege|runter|steh",
    ),
    (
        SUICIDE,
        "vor den zug|vor die bahn|vors auto|vor einen zug + werf*|spring*|schmeiss*|ich",
    ),
    (SUICIDE, "ohne mich + besser + dran|alle|waere*"),
    (
        SUICIDE,
        "leben|weitermachen|dasein + sinnlos|keinen sinn|wozu - bescheid",
    ),
    (
        SUICIDE,
        "alles sinnlos|alles ist sinnlos|alles keinen sinn|fuer immer geschrieben",
    ),
    (
        SUICIDE,
        "vorbei mit mir|schluss mit dem leben|mach schluss|tschuess fuer immer|fuer immer \
         verabschiedet - vertrag|freund|freundin",
    ),
    (SUICIDE, "ritzt|ritze|geritzt + sich|mich - auto|lack"),
    (
        SUICIDE,
        "tabletten|pillen|schlaftabletten|medikamente + gesammelt|hortet|alle auf einmal|vor \
         mir",
    ),
    (
        MEDICAL,
        "krankenwagen|notarzt|rettungswagen|rettungsdienst - kosten|kostet|rechnung|gebuehr*|\
         bezahl*|zahlen|parken|beruf|ausbildung|verein|dagelassen|danach|kam|husten|normaler|\
         nicht den|mitgenommen|@OVER",
    ),
    (
        MEDICAL,
        "atmet|atme|atmen|atmung + nicht|kaum|komisch|schwer|schlecht|nimmer|keine - \
         luftqualitaet|maske",
    ),
    (
        MEDICAL,
        "luft + bekommt|bekomme|bekomt|kriegt|kriege|kriag*|schnappt|ringt|japst - geld|termin",
    ),
    (
        MEDICAL,
        "erstickt|verblutet|verblute|ersticke - arbeit|papier*|antraegen|post",
    ),
    (MEDICAL, "bewusstlos*|ohnmaechtig*|ohnmacht - @OVER"),
    (
        MEDICAL,
        "baby|kind|saeugling|lippen|gesicht|angelaufen + blau|grau|blaue lippen - augen|jacke|\
         kleid|haare",
    ),
    (
        MEDICAL,
        "blaue lippen|bienenstich dick|dicken hals|zunge schwillt|hals schwillt|zunge \
         geschwollen",
    ),
    (
        MEDICAL,
        "blutet|bluten|blute|blutende|blutente + stark|heftig|ueberall|viel|nicht auf|kopf|wie|\
         wunde - hund|katze|tier|tiere|@OVER",
    ),
    (
        MEDICAL,
        "voller blut|alles blut|ueberall blut|viel blut|hustet blut|spuckt blut - spende*|hund|\
         katze",
    ),
    (MEDICAL, "tief|knochen + geschnitten|schnitt|wunde|offen"),
    (
        MEDICAL,
        "@PERSON + umgekippt|umgefallen|kollabiert|zusammengesackt|zusammen gesackt|\
         zusammengebrochen|zusammengeklappt|bewegungslos|regungslos|kippt um|faellt um|kippt \
         dauernd weg - baum|rechner|server|zaun|muelltonne|@OVER",
    ),
    (
        MEDICAL,
        "@PERSON + gestuerzt|abgestuerzt|runtergefallen|gefallen + treppe|leiter|geruest|dach|\
         fenster|balkon|teich|wasser|pool|kopf|baum - @OVER|wer haftet|gehweg",
    ),
    (
        MEDICAL,
        "@PERSON|ich + kann die beine nicht|kann nicht aufstehen|kommt nicht mehr hoch - \
         termin|amt",
    ),
    (
        MEDICAL,
        "@PERSON + liegt + boden|fahrbahn|auf der strasse|antwortet|ruehrt|blut* - krankenhaus|\
         termin|ausweis|matratze|@OVER",
    ),
    (
        MEDICAL,
        "@PERSON + reagiert|antwortet|bewegt + nicht - amt|behoerde|sachbearbeiter*|stadt|\
         antrag|brief|mail|mails|telefon|vermieter|verwalter|hausverwaltung|rechnung|mahnung*|\
         anruf*|papier",
    ),
    (
        MEDICAL,
        "nicht wach|wacht nicht|nicht ansprechbar|nicht mehr ansprechbar|wird nicht wach|kaum \
         noch wach - eilbetreuung|betreuung*",
    ),
    (
        MEDICAL,
        "brust|brustkorb|herz + druck|schmerzen|stich|stiche|sticht|stechen|eng|enge|weh",
    ),
    (
        MEDICAL,
        "mundwinkel|arm|gesicht|gesichtshaelfte|seite + haengt|taub|gelaehmt|lahm|spuer*",
    ),
    (
        MEDICAL,
        "@PERSON + nicht mehr richtig sprechen|nicht mehr sprechen|redet wirr|lallt - \
         waffenschein|@OVER",
    ),
    (
        MEDICAL,
        "krampft|krampfanfall|epileptischer anfall|asthmaanfall|zuckerschock|hitzschlag|puls \
         rast - @OVER",
    ),
    (
        MEDICAL,
        "stromschlag|ertrinkt|herzinfarkt + @PERSON|hilfe|gerade|hat|glaub* - @OVER|jahr",
    ),
    (
        MEDICAL,
        "schlaganfall + gerade|glaube|jetzt|eben|hilfe - @OVER|jahr|pflegeheim|seit",
    ),
    (MEDICAL, "wehen + minuten|kommt|kommen|schnell|stark"),
    (MEDICAL, "krampf + baby|kind|fieber|saeugling"),
    (
        MEDICAL,
        "fruchtblase|allergischer schock|allergischen schock|*ueberdosis",
    ),
    (
        MEDICAL,
        "stoehnen|stoehnt|roechelt|roecheln + @PERSON|hoere",
    ),
    (
        MEDICAL,
        "unfall|verkehrsunfall + verletzte|verletzter|schwerer|eingeklemmt|liegt - @OVER",
    ),
    (
        MEDICAL,
        "verbrueht|verbrannt + kind|baby|wasser|arm|bein - @OVER|papiere|unterlagen",
    ),
    (
        FIRE,
        "vorhang|gardine*|kueche|haus|wohnung|dach|dachstuhl|keller|auto|tonne|muelltonne|wald|\
         zimmer|bett|scheune + brennt|brent|brand|brennd - licht|lampe*|*lampe|nicht|\
         osterfeuer|darf|erlaubt|kaminholz|schutz|@OVER",
    ),
    (
        FIRE,
        "brennt|brennts|brent|brennd|brennen - nicht|nimmer|lampe*|laterne*|licht*|*lampe|\
         *lampen|*laterne|*laternen|kerze|kerzen|cd|cds|dvd|dvds|drucker|ofen|kamin|naegeln|\
         seele|augen|durch|sonne|beleuchtung|birne|darf|erlaubt|verboten|brennholz|thema|holz|\
         huat|115",
    ),
    (
        FIRE,
        "lodert|lodern|lichterloh|in flammen|flammen|feuer gefangen|feuer ausgebrochen|\
         brandgeruch|kaminbrand",
    ),
    (
        FIRE,
        "angesteckt|angezuendet + gardine*|vorhang|vorhaenge|haus|wohnung|sofa|bett|auto|\
         scheune",
    ),
    (
        FIRE,
        "qualmt|qualm|rauch + treppenhaus|keller|wohnung|dach|fenster|kueche|haus|zimmer|\
         hausflur|flur|akku|dichter|schwarzer|steckdose|motorhaube|waschkueche|trockner|handy|\
         ladegeraet|riech|riecht - zigarette*|grill*|grillt|balkon|rauchen|raucher*|kamin|\
         mieter|ofen",
    ),
    (
        FIRE,
        "akku|steckdose|motorhaube|dach|ladegeraet + raucht|qualmt|zischt|blaeht",
    ),
    (
        FIRE,
        "rauchmelder|brandmelder|melder|feueralarm|brandmeldeanlage + piept|piepst|schrillt|\
         heult|losgegangen|geht|alarm - batterie*|dauernd|pflicht|defekt",
    ),
    (
        FIRE,
        "steckdose|sicherung*|sicherungskasten|kabel|leitung + funken|schmort|verschmort|kokelt",
    ),
    (
        FIRE,
        "feuer|feua + hilfe|schnell|raus|wald|kommen|kinder|kuchl - osterfeuer|lagerfeuer|\
         kindergarten",
    ),
    (
        FIRE,
        "waldbrand|wohnungsbrand|zimmerbrand|kuechenbrand + gerade|hinter|sieht|jetzt|hier|\
         nebenan|drin - gefahr|stufe|@OVER",
    ),
    (
        FIRE,
        "explodiert|explosion - *preis*|preise|*preise|*kosten|kosten|mieten|miete|strom*|\
         zinsen",
    ),
    (
        GAS,
        "gasgeruch|gasleck|gas stroemt|stroemt gas|gasleitung getroffen|gas geruch",
    ),
    (
        GAS,
        "gas|gasherd|gastherme|gasheizung|gaskessel|gashahn|hauptgashahn + riecht|riechts|\
         riechd|stinkt|stinkts|zischt|leck|offen gelassen|gestank|faulen eiern|gerochen - \
         tausch*|austausch*",
    ),
    (
        POLICE,
        "messer|pistole|waffe|gewehr|axt|machete|knarre|schusswaffe|flasche + mann|typ|typen|\
         einer|jemand|kerl|fuchtelt|bedroht|droht|er|betrunkener|sohn|mieter + steht|laeuft|\
         rennt|kommt|bedroht|fuchtelt|mit|hat|genommen - schein|waffenschein|erlaubnis|\
         besitzkarte|schleif*|kauf*|mitnehmen|geerbt|flohmarkt|anmelden|melden|verloren|pfand|\
         @OVER",
    ),
    (
        POLICE,
        "einbrecher|einbraecher|burglar + haus|wohnung|gerade|keller|garten|im|hier|hilf|hilfe|\
         house - film|tipps|@OVER",
    ),
    (
        POLICE,
        "eingebrochen|bricht|brechen + gerade|grad|wird|jetzt|eben|ein - zusammen|behoerden|\
         @OVER",
    ),
    (
        POLICE,
        "aufzubrechen|aufbrechen|aufhebeln|aufhebelt|klirrt + tuer|haustuer|terrassentuer|\
         fenster|schloss|glas + jemand|einer|gerade|typen|maenner|ich",
    ),
    (
        POLICE,
        "ruettelt|ruetteln|tritt|haemmert + tuer|haustuer|terrassentuer|wohnungstuer",
    ),
    (
        POLICE,
        "schritte|jemand|fremde + in meiner wohnung|im haus|in der wohnung + hoere|hoer|\
         verstecke|eingestiegen - nachts laut",
    ),
    (
        POLICE,
        "verfolgt|bedroht|zusammengeschlagen|nachgelaufen + ich|mir|mich|er + werde|wird|\
         werden|mann|typ|einer|gerade|bedroht meine - mahnung*|gez|ziel*|rechnung*|finanzamt|\
         pech|inkasso|werbung|werbebriefe|adresse|anschrift|daten|meldesperre|sperre|@OVER",
    ),
    (
        POLICE,
        "hinterher + geht|laeuft|rennt|faehrt|folgt + mir|mich",
    ),
    (
        POLICE,
        "ausgeraubt|ausgraubt|ueberfallen|geisel|geiseln|entfuehrt|amoklauf|amok|amoklaeufer - \
         film|krimi|tatort|@OVER",
    ),
    (
        POLICE,
        "schiesst|schuesse|geschossen|ueberfall + draussen|strasse|gerade|gehoert|jemand|jetzt|\
         tankstelle - bild*|foto|tor|@OVER",
    ),
    (
        POLICE,
        "geisterfahrer|falschfahrer|randaliert|sexuell belaestigt|handtasche entrissen|in die \
         luft zu jagen|in die luft sprengen|laesst mich nicht raus|schlangenlinien - @OVER",
    ),
    (
        POLICE,
        "mit gewalt|handtasche + weggenommen|genommen|entrissen",
    ),
    (
        POLICE,
        "schlaegerei|pruegeln|pruegelei|schlaegern + gerade|jetzt|vor|hier|treppenhaus|sich - \
         geschwister|taeglich|@OVER",
    ),
    (
        POLICE,
        "schlagen|treten|pruegeln + auf einen|auf ihn|auf jemanden|auf eine",
    ),
    (POLICE, "schlaegt + um sich|frau auf strasse"),
    (POLICE, "schreit|schreien + hilfe|um hilfe|haaren - @OVER"),
    (
        POLICE,
        "zerrt|zieht + haaren|auto|gebuesch + frau|maedchen|kind",
    ),
    (
        VIOLENCE,
        "umzubringen|abzustechen|umbringen|umbringt|absticht|sticht mich|bringt mich um|bringt \
         sie um + er|sie|ex|mann|droht|gedroht|will|schreit - papierkram|verstand|nerven|ihr|\
         stress|hitze|@OVER",
    ),
    (
        VIOLENCE,
        "@NEAR + @HITS + mich|mi|uns|mir|ihn|meine mutter - schlaegt vor|vorgeschlagen|@PARENT|\
         haltestelle|fahrbahn|hund*|@OVER|unfall|ab|drauf|adresse|wohne|lohnzettel",
    ),
    (
        VIOLENCE,
        "@HITS + von ihm|von ihr|von meinem mann|von meiner frau|von ihrem mann|zuhause|zu \
         hause|daheim - @OVER|boxen",
    ),
    (
        VIOLENCE,
        "frau|mann|freund|freundin|partner|er|sie + wirft|schmeisst|gestossen|zugeschlagen|\
         schlaegt zu|tritt mich|sperrt mich|rippen gebrochen|handgreiflich + nach mir|verletzt|\
         wand|mich|mir|wieder|regelmaessig|weint - @OVER|unfall|scheck",
    ),
    (
        VIOLENCE,
        "frauenhaus|frauennotruf|haeusliche gewalt|haeuslicher gewalt|heusliche gewalt - \
         spende*|arbeite|arbeiten|stelle|praktikum|auskunftssperre|adresse|anschrift|aus dem \
         frauenhaus|schreiben|bewohnerin|unterlagen|begleite|geflohen",
    ),
    (
        VIOLENCE,
        "angst|schutz + vor meinem mann|vor ihm|vor meim mo|vor meinem freund|vor meiner frau",
    ),
    (
        VIOLENCE,
        "vergewaltigt|vergewaltigung|zwingt mich + ich|mich|er|wurde|sex|mann|partner - film|\
         steuer*",
    ),
    (
        VIOLENCE,
        "zwangsheirat|zwangsverheiratet|zwangsehe - geflohen",
    ),
    (
        VIOLENCE,
        "gezwungen|zwingen|gegen ihren willen|gegen meinen willen + heirat|heiraten|verheiratet",
    ),
    (
        VIOLENCE,
        "lauert|stalkt|stalker + mir|mich|auf|garten|steht - umziehe|wissn|wissen wo|adresse|\
         anschrift|daten|@OVER|amt",
    ),
    (
        CHILD,
        "@PARENT + @HITS|anfasst|angefasst|fasst|wehtun|weh tut|tun mir weh|tut mir weh|sperrt|\
         sperren|eingesperrt + mich|mir|ich|mi - schlaegt vor|@OVER|gesperrt|steuer*",
    ),
    (
        CHILD,
        "@YOUNG + @HITS|missbraucht|missbrauch|angefasst|anfasst|eingesperrt|vernachlaessigt|\
         schuettelt|hungern|angetan - @OVER|schlage vor|schlaegt vor|kita vor",
    ),
    (CHILD, "@YOUNG + striemen|blaue flecken|brandwunden"),
    (
        CHILD,
        "@YOUNG + allein|alleine + schlafanzug|auto|hitze|auf der strasse|nachts|eingesperrt|\
         tagelang|seit gestern - erziehend|bus|schulweg|ab wann|erlaubt|sorge",
    ),
    (
        CHILD,
        "ich bin + ganz allein|allein zuhause|alleine zuhause|nichts zu essen|so angst|hab \
         angst|habe angst + mama|papa|mutter|vater|eltern|hause|zuhause - alleinerziehend|\
         rente|@OVER|jahre verheiratet",
    ),
    (
        CHILD,
        "@PARENT + weg + nichts zu essen|nichts mehr zu essen|alleine|allein - sorge",
    ),
    (CHILD, "trau|traue + mich + heim|hause + nicht"),
    (
        CHILD,
        "kindesmisshandlung|stiefvater + jetzt|nebenan|nachts|zimmer",
    ),
    (
        MISSING,
        "sohn|tochter|kind|mutter|vater|oma|opa|mann|frau|bruder|schwester|freund|freundin|\
         enkel*|junge|maedchen + verschwunden|weggelaufen|verloren gegangen|vermisst|abgehauen|\
         verlaufen|verschollen|unauffindbar - ausweis*|pass|*pass|urkunde|schluessel|brief|\
         katze|kater|hund|dokument*|bescheid|paket|post|geld*|handy|unterhalt|*roller|auto|\
         sorge|ehe|@OVER",
    ),
    (
        MISSING,
        "sohn|tochter|kind|mutter|vater|oma|opa|mann|frau|bruder|schwester|kleiner + nicht \
         zurueck|nicht zurueckgekommen|nicht heimgekommen|nicht nach hause gekommen|nicht mehr \
         im haus|nicht angekommen|nicht in der kita angekommen|nicht von der schule|ned \
         hoamkemma|nicht mehr erreichbar|jetzt ist er nicht mehr da - ausweis*|pass|brief|\
         bescheid|paket|post|geld|amt|@OVER",
    ),
    (
        MISSING,
        "demenz*|demente|dementer|verwirrte|verwirrter|verwirrt|alzheimer + weg|draussen|\
         strasse|schlafanzug|nachthemd|herum|findet|nicht zurueckgekommen - pflege*|betreuung*|\
         vollmacht",
    ),
    (
        POISON,
        "@SWALLOWED|zerbissen + @POISON|*entferner|*mittel|shampoo|*kapsel|seife - rezept|\
         sammeln|restaurant|lecker|kuche|lebensmittel|hund|katze",
    ),
    (
        POISON,
        "giftnotruf|giftzentrale|vergiftet + @PERSON|nummer|ich|uns|giftnotruf|telefon - \
         prinzessin|film|ratten|tauben|koeder",
    ),
];

/// Whole texts that say everything. Folded.
pub(super) const CRIES: [(&str, &str); 8] = [
    (FIRE, "feuer"),
    (FIRE, "es brennt"),
    (FIRE, "feuer feuer"),
    (POLICE, "polizei schnell"),
    (POLICE, "ueberfall"),
    (MEDICAL, "notarzt"),
    (SUICIDE, "sterben"),
    (POISON, "vergiftung"),
];
