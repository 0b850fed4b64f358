"""What the words and phrases of fracture reports do in a sentence, as one table."""

from dataclasses import dataclass
from enum import StrEnum, auto


class Kind(StrEnum):
    """What a word or phrase does in a report sentence."""

    FRACTURE = auto()
    BONE = auto()  # value: the bone
    HINT = auto()  # implies a bone when none is named: burst, shoulder
    NUMBER = auto()  # value: "5" or "5 6 7"
    LEVEL = auto()  # value: "T8" or "T11 T12 L1"
    SIDE = auto()
    SEGMENT = auto()
    AGE = auto()  # value: acute, old, healing, or "" for an age called unknown
    HEDGE = auto()
    NEGATION = auto()
    ABSENT = auto()  # said after the fracture: absent, none, ruled out
    UNSURE = auto()  # neither asserts nor denies: cannot be excluded
    ASKING = auto()  # what comes next is looked for, not found: rule out
    EXCEPT = auto()
    EXTRA = auto()  # presupposes another fracture or bone: additional, remaining
    LIMITED = auto()
    QUALIFIER = auto()  # adjectives and adverbs of a fracture: displaced, definite
    CARRIER = auto()  # nouns a negation passes through: evidence, sign
    LINK = auto()  # joins a noun to the fracture it would mean: to suggest, such as
    SKELETON = auto()
    ABNORMALITY = auto()  # value: bones, where they are part of the phrase
    NORMAL = auto()
    PROPERTY = auto()  # density, alignment: normal ones say nothing of fractures
    DEVICE = auto()
    NOUN = auto()  # other findings and anatomy
    REFERENCE = auto()  # what follows says where, not which bone
    SEEN = auto()
    VERB = auto()
    INVOLVE = auto()
    AND = auto()
    OR = auto()
    PREPOSITION = auto()
    ARTICLE = auto()
    COMMA = auto()
    COLON = auto()
    BREAK = auto()
    QUERY = auto()
    NEUTRAL = auto()
    FOREIGN = auto()
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class Token:
    """A word or phrase with its part in the sentence."""

    kind: Kind
    value: str
    text: str
    form: str = ""  # of a NUMBER: ordinal, digit, cardinal or range


# One row per meaning, "value: phrase, phrase"; of two equally long phrases the earlier kind wins.
TABLE: dict[Kind, str] = {
    Kind.FRACTURE: """
        noun: fracture, fractures, fx, fxs, frx, frxs, fxr, fxrs, frac, fracs, fracturing,
            fracture lines, fracture sites,
            fracture fragments, fracture deformities, microfractures, fracture line,
            fracture fragment, fracture site, fracture plane, fracture lucency,
            fracture dislocation, fracture deformity, fracture subluxation, fracture nonunion,
            fracture malunion, microfracture
        adjective: fractured, broken, cracked, fxd, fx d
        deformity: compression deformity, compression deformities, wedge compression deformity,
            wedge compression deformities, compression type deformity, compressive deformity,
            compression fracture deformity, compression fracture deformities,
            compressive deformities, vertebral compression, compression of the vertebral body,
            biconcave compression deformity""",
    Kind.BONE: """
        rib: rib, ribs, rib s, rbi, ribes, ribd, ribb, ribbs, costal, rib cage, ribcage,
            costochondral junction, costochondral junctions, costochondral,
            costal arch, costal arches, costa, costae
        clavicle: clavicle, clavicles, collarbones, clavicular, collarbone, collar bone,
            clavical, clavicals, midclavicle, claviculae, clav, clavs,
            midclavicular shaft, midclavicular third
        scapula: scapula, scapulas, scapulae, scapular, shoulder blade, shoulder blades,
            scapular spine, scapular body, scap
        humerus: humerus, humeral, humeri, humerous, humoral, greater tuberosity,
            lesser tuberosity, greater tubercle, lesser tubercle, anatomical neck,
            anatomic neck, surgical neck of the humerus, upper arm bone, humeral head, humeral neck,
            surgical neck, surg neck, hum
        sternum: sternum, sternal, manubrium, manubrial, xiphoid, xiphoid process, breastbone,
            breast bone, manubriosternal, manubriosternal junction, sternal body, sternums
        acromion: acromion, acromial, acromion process, acromions
        glenoid: glenoid, glenoid fossa, glenoid rim, glenoid neck, glenoid cavity, glenoids
        coracoid: coracoid, coracoid process, coracoids
        vertebra: vertebra, vertebrae, vertebral, vertebral body, vertebral bodies, vertebras,
            spine, spinal, spinous process, spinous processes, t spine, thoracic spine, c spine,
            l spine, lumbar spine, cervical spine, thoracolumbar spine, dorsal spine,
            thoracic vertebra, thoracic vertebrae, lumbar vertebra, lumbar vertebrae,
            thoracic vertebral body, thoracic vertebral bodies, lumbar vertebral body,
            thoracolumbar junction, vertebral column, spinal column, endplate, end plate,
            endplates, end plates, dorsal vertebra, dorsal vertebrae, cervical vertebra,
            cervical vertebrae, transverse process, transverse processes, dorsal vertebral body,
            lumbar vertebral bodies, cervicothoracic junction, odontoid
        other: femur, femoral, radius, ulna, radial, ulnar, pelvis, pelvic, hip, skull,
            mandible, tibia, fibula, patella, wrist, forearm, elbow, olecranon, metacarpal,
            finger, hand, ankle, foot, facial, nasal, sacrum, iliac, hyoid, ilium, pubic ramus,
            costal cartilage, radial head, calvarium, phalanx, olecranons, thyroid cartilage""",
    Kind.HINT: """
        vertebra: compression, comp, compr, wedge, burst, thoracic, lumbar, cervical,
            thoracolumbar, vcf, wedge compression, dorsal
        other: shoulder, shoulders, arm, chest wall, thorax, thoracic wall, hemithorax, chest,
            upper extremity, lower extremity, shoulder girdle""",
    Kind.SIDE: """
        left: left, lt, left sided, left side, leftsided, lefft, lfet, letf, leff,
            left hand side, left hemithorax, left hemithoracic, left chest wall, leftward side,
            lleft, lef
        right: right, rt, right sided, right side, rightsided, rigth, rihgt, rigt, righ, rght,
            right hand side, right hemithorax, right chest wall, righht, riight, roght
        bilateral: bilateral, bilaterally, both, bilat, both sides, both sided, either side,
            each side, biltateral, bilatral, left and right sided, right and left sided""",
    Kind.SEGMENT: """
        anterior: anterior, anteriorly, ant
        posterior: posterior, posteriorly
        lateral: lateral, laterally, outer, acromial end, acromial extremity
        medial: medial, medially, inner, sternal end, sternal extremity
        proximal: proximal, proximally
        distal: distal, distally
        anterolateral: anterolateral, anterolaterally, antero lateral
        posterolateral: posterolateral, posterolaterally, postero lateral
        posteromedial: posteromedial, posteromedially
        head: head
        neck: neck
        angle: angle, costal angle
        shaft: shaft, midshaft, mid shaft, diaphysis, diaphyseal, midportion, mid portion
        body: body, bodies
        upper: upper, superior, superiorly
        lower: lower, inferior, inferiorly
        middle: mid, middle, central, midportion, middle third, mid third""",
    Kind.AGE: """
        acute: acute, new, newly, acutely, hyperacute, newly seen, newly identified, newly noted,
            newly visible, newly apparent, newly demonstrated, newly detected
        old: old, chr, older, healed, chronic, remote, malunited, malunion, history of, status post,
            post orif, prior, previous, longstanding, long standing, well healed, chronically,
            remotely, malunification, h o, postop, long healed, ancient, past, fully healed,
            completely healed, prior history of, past history of, known history of
        healing: healing, callus, callous, subacute, callus formation, partially healed,
            incompletely healed, bridging callus, stages of healing, healing callus,
            not yet healed, not completely healed, not fully healed, incomplete healing,
            partial healing, interval healing, evidence of healing, signs of healing,
            healing response, healing changes, sub acute, undergoing healing
        : age of which can not be determined, age can not be determined,
            acuity can not be determined, age indeterminate, indeterminate age, uncertain age,
            unknown age, unclear age,
            indeterminate chronicity, unknown chronicity, uncertain chronicity,
            unclear chronicity, indeterminate in age, age undetermined, undetermined age,
            age uncertain, age unknown, indeterminate acuity, uncertain acuity, unknown acuity,
            unclear acuity, acuity indeterminate, chronicity indeterminate,
            chronicity uncertain, indeterminate age and, acute on chronic, not acute, nonacute,
            age unclear, unhealed, nonhealed, non acute, not old, not healed, not healing,
            not new, not chronic, without callus, without callus formation,
            no evidence of healing, no evidence of interval healing, without healing,
            without evidence of healing,
            no signs of healing, no interval healing, without interval healing,
            no significant healing, no significant interval healing, nonhealing,
            not acute appearing, acute or chronic, no evidence of callus,
            no evidence of callus formation, not appear acute, no further healing,
            no visible callus, no convincing healing, acute or old, acute or healing,
            acute versus chronic, acute vs chronic, acute versus old, old or new,
            acute or subacute, acute versus subacute, acute to subacute, subacute to chronic,
            subacute or chronic, subacute or old, healing or healed, healed or healing,
            new or old, new versus old""",
    Kind.HEDGE: """
        possible: possible, possibly, probable, probably, likely, suspicious for, suspicious of,
            suspicious, questionable, questionably, question of, questioned, may represent,
            may be, might be, could be, might represent, could represent, may reflect,
            could reflect, might reflect, may indicate, could indicate, might indicate,
            suggestive of, suggesting, suggests, suggest, suspected, suspect, concerning for,
            concern for, worrisome for, presumed, presumably, potential, potentially, perhaps,
            query, equivocal, susp, poss, prob, suspicion of, suspicion for, suggestion of,
            possibility of,
            raises the possibility of, raise the possibility of, versus, vs, favor, favored,
            favors, felt to represent, thought to represent, appears to be, appear to be,
            seems to be, seem to be, appears to represent, may have, could have, might have,
            conceivable, conceivably, possible mark, raising concern for, raises concern for,
            raises suspicion for, raising suspicion for, equivocal for, may correspond to,
            could correspond to, probably represents, likely represents, likely represent,
            probably represent, most likely, very likely, most probably, believed to be,
            believed to represent, may relate to, may be due to, may be related to,
            could be due to, likely due to, likely from, likely related to, likely secondary to,
            likely reflects, likely reflecting, likely representing, possibly representing,
            probably due to, probably related to, possibly due to, possibly related to,
            possibly represents, may suggest, could suggest, might suggest, suspiciously, maybe,
            suspicious appearance, suggestion, questionably represents, plausible,
            can represent, possibly reflecting, probably reflecting, concern of, concern about,
            highly suspicious for, highly suspicious of, highly likely, highly suggestive of,
            differential includes, differential considerations include, may also represent,
            consideration of, raises question of, raises the question of,
            raising the possibility of, raising the question of, tentative, presumptive""",
    Kind.NEGATION: """
        no: no, zero, nil, without any, without definite, no signs of, free of, free from,
            absence of, lack of, lacks, never, neither, nor, without, negative for,
            negative examination for, negative exam for, negative study for,
            negative radiograph for, devoid of, no sign of, none of, any absence of,
            fails to show, fail to show, failed to show, failed to demonstrate,
            fails to demonstrate, nonvisualization of, any of
        not: not""",
    Kind.ABSENT: """
        absent: absent, none, negative, ruled out, excluded, not applicable, nonexistent,
            clear of""",
    Kind.UNSURE: """
        after: suspected clinically, hard to rule out, difficult to rule out, impossible to rule
            out, can not be excluded,
            can not be ruled out, not excluded, not be excluded,
            not be ruled out, not ruled out, can not be completely excluded,
            can not be entirely excluded, can not be definitely excluded,
            can not be fully excluded, can not be reliably excluded,
            can not be confidently excluded, can not be definitively excluded,
            not entirely excluded, not completely excluded, not definitely excluded,
            not definitively excluded, not reliably excluded, not fully excluded,
            difficult to exclude, not possible to exclude, hard to exclude,
            impossible to exclude, unlikely, less likely, not confirmed, can not be confirmed,
            can not be assessed, can not be evaluated, can not be determined,
            can not be commented on, not well seen, not clearly seen, not well visualized,
            not clearly visualized, not clearly identified, not definitely seen,
            not definitely identified, not well demonstrated, not well appreciated,
            not well evaluated, not well assessed, not evaluated, not assessed,
            not adequately assessed, not adequately evaluated, not optimally evaluated,
            not fully evaluated, not fully assessed, not assessable, not evaluable,
            incompletely evaluated, uncertain, unclear, unknown, undetermined, null, may be missed,
            could be missed, might be missed, may be occult, can be occult, can be missed,
            not be visible, may not be visible, may not be seen, may be obscured,
            might not be seen, might not be visible, not be apparent, may not be apparent,
            could be obscured, could be hidden, not be seen, may escape detection,
            may go undetected, be considered, is a consideration, needs to be excluded,
            should be excluded, to be excluded, must be excluded, needs to be ruled out,
            to be ruled out, no longer seen, no longer visible, no longer visualized,
            no longer identified, no longer evident, no longer present, no longer apparent,
            no longer appreciated, resolved, doubtful, doubted, inconclusive, improbable,
            not definite, in doubt, in question, debatable, neither confirmed nor excluded,
            nor excluded, neither be confirmed nor excluded, indeterminate, be difficult to see,
            difficult to detect, difficult to identify, not definitive, not specific for,
            not diagnostic, improbably, not certain, not entirely clear, not clear,
            often occult, often radiographically occult, frequently occult, often missed,
            frequently missed, commonly missed, easily missed, often not visible,
            not be detected, not be demonstrated, be inapparent, remain a possibility,
            remain possible, not likely
        before: rather than, no question of, no question, not possible to overlook, can not exclude,
            can not rule out, does not exclude,
            do not exclude, not exclude, not rule out, not entirely exclude,
            not completely exclude, can not entirely exclude, can not completely exclude,
            can not definitely exclude, can not confidently exclude, can not reliably exclude,
            unable to exclude, unable to rule out, difficult to exclude,
            not possible to exclude, impossible to exclude, unable to determine,
            unable to assess, unable to evaluate, unable to confirm, can not determine,
            can not assess, can not evaluate, can not confirm, can not tell, can not comment,
            can not say, not possible to determine, not possible to say, low suspicion for,
            low suspicion of, doubt, unclear whether, uncertain whether, unclear if,
            uncertain if, may or may not, no comment, presence or absence of, indeterminate for,
            unable to identify, unable to detect, unable to see, not able to, not diagnostic of,
            not specific for, hard to exclude, difficult to rule out, impossible to rule out,
            not possible to rule out, not certain, can not interpret, can not provide,
            can not diagnose, can not detect, can not see, can not identify, can not appreciate,
            can not clearly, not sure""",
    Kind.ASKING: """
        for: follow up of, follow up for, followup of, followup for, rule out, evaluate, evaluate
            for, evaluation of, evaluation for, assess,
            assess for, assessment of, assessment for, assessed for, evaluated for, exclude,
            excluding fracture, exclusion of, detect, detection of, look for, looking for,
            check for, screen for, concern regarding, clinical concern, clinical concern for,
            clinical suspicion, clinical suspicion for, clinical suspicion of,
            clinically suspected, clinical question, risk of, risk for, at risk, in case of,
            in the case of, sensitivity for, sensitive for, insensitive for, insensitive to,
            recommend, recommended, recommendation, advise, advised, consider, recommend ct,
            correlate for, correlate with, correlation for, correlation with, indication,
            describe, identify any, report any, locate, please, question,
            suspicion of a clinical, predisposed to, prone to, susceptible to, to confirm,
            confirm or exclude, to identify, to detect, to determine, to look for, for possible,
            symptoms of, mechanism of, prevention of, prevent, characterize, as to whether,
            ordered for, referred for, study for, in search of, search for, concerned about,
            worried about, in the setting of suspected, in the event of, should there be,
            suggest ct, suggest dedicated, suggest correlation, suggest clinical correlation,
            suggest follow up, suggested for, may be obtained, may be helpful, are suggested to,
            is suggested to, in order to
        if: if, whether, unless""",
    Kind.EXCEPT: """
        : other than, except, except for, apart from, aside from, besides,
            with the exception of, with exception of, excepting, save for, outside of, beyond""",
    Kind.EXTRA: """
        : additional, other, further, else, elsewhere, otherwise, remaining, remainder, rest of,
            another, more, others, rest""",
    Kind.LIMITED: """
        : limited, limit, limits of, limiting, limitation, limitations, suboptimal, suboptimally,
            poorly visualized, poorly seen, poorly evaluated, poorly assessed, obscured,
            obscures, obscure, obscuring, nondiagnostic, insensitive, not sensitive,
            low sensitivity, not included, incompletely imaged, incompletely included,
            incompletely visualized, incompletely assessed, excluded from view,
            excluded from the field, inadequate, inadequately, partially imaged, poor quality,
            not well seen, not well evaluated, not well visualized, not well assessed, degraded,
            degrades, underpenetrated, limited sensitivity, not adequately, non diagnostic,
            can not be assessed, can not be evaluated, not assessed, not evaluated, precludes,
            precluded, preclude, not evaluable, not assessable, uninterpretable, hampered,
            compromised, reduced sensitivity, hinders, hindered""",
    Kind.QUALIFIER: """
        displaced: displaced
        definite: definite, definitely, definitive, obvious, convincing, clear cut, gross,
            grossly, overt, frank, conclusive, certain, discrete, unequivocal
        other: nondisplaced, non displaced, undisplaced, minimally, mildly, moderately,
            severely, markedly, significantly, slightly, comminuted, segmental, angulated,
            impacted, transverse, oblique, spiral, complete, incomplete, greenstick, buckle,
            stress, insufficiency, pathologic, pathological, fragility, osteoporotic, traumatic,
            occult, hairline, subtle, linear, vertical, horizontal, open, closed, depressed,
            avulsion, multiple, several, numerous, many, few, some, various, couple, single,
            solitary, isolated, consecutive, adjacent, contiguous, mild, minimal, moderate,
            severe, marked, small, tiny, large, significant, simple, complex, partial, focal,
            detectable, identifiable, appreciable, demonstrable, radiographic, radiographically,
            suspicious looking, multifocal, multilevel, multi level, overriding, distracted,
            unstable, stable, unchanged, known, redemonstrated, associated, concomitant,
            concurrent, underlying, corresponding, recent, fresh, interval, cortical,
            posttraumatic, post traumatic, non united, ununited, nonunited, nonunion, extensive,
            suspiciously, crush, biconcave, endplate impaction, superior endplate,
            inferior endplate, typical, grade, also, similar, again, still, persistent,
            redemonstration of, especially, particularly, specifically, mainly, predominantly,
            roughly, approximately, about, at least, more than, up to, total of, innumerable,
            visually, lytic, flail, bicortical, intra articular, intraarticular,
            extra articular, two part, three part, four part, first time""",
    Kind.CARRIER: """
        : evidence, sign, signs, finding, findings, indication of, suggestion of, appearance,
            appearances, feature, features, radiographic evidence, case, signal, features of,
            area, areas, focus, foci, hint, stigmata, proof, trace, presence, imaging evidence,
            plain film evidence""",
    Kind.LINK: """
        : to suggest, suggestive, such as, including, e g, like, to indicate,
            that would suggest, that suggest, that suggests, which would suggest,
            consistent with, compatible with, in keeping with, diagnostic of, indicative of,
            indicating, representing, represents, represent, reflecting, reflects, i e, namely,
            attributable to, characteristic of, consisting of, in the form of, typical of""",
    Kind.SKELETON: """
        : bone, bones, osseous structure, osseous structures, bony structure, bony structures,
            skeleton, skeletal structures, skeletal structure, bony thorax, osseous thorax,
            osseous, bony, skeletal, bone structures, bone structure, musculoskeletal, msk,
            thoracic cage, osseous and soft tissue structures, bony elements, osseous elements,
            bony skeleton, thoracic skeleton, bony cage, thoracic bones, bony framework,
            bony outlines, bone framework, osseous framework, bony detail, skeletal system,
            rib cage and bones, visualized skeleton, bony chest, bony thoracic cage,
            osseous structures of the thorax, bony anatomy, chest wall bones,
            bones of the thorax""",
    Kind.ABNORMALITY: """
        : abnormality, abnormalities, injury, injuries, process, pathology, trauma, alteration,
            alterations, change acute, disease acute, acute finding, acute findings,
            traumatic injury, traumatic abnormality, pathologies, abn, abnl, traumatic lesion,
            traumatic lesions
        bones: traumatic bone lesion, traumatic bone lesions, traumatic bony lesion,
            traumatic bony lesions, traumatic osseous lesion, traumatic osseous lesions""",
    Kind.NORMAL: """
        : intact, normal, unremarkable, within normal limits, wnl, preserved, unfractured,
            nonfractured, non fractured, without abnormality, without abnormalities,
            without alterations, without acute abnormality, normally, within the normal limits,
            not remarkable, without significant abnormality, without acute findings,
            without significant alterations, without pathology, without injury,
            without acute injury, without traumatic injury""",
    Kind.PROPERTY: """
        : density, mineralization, mineralisation, alignment, curvature, height, heights,
            variant, size, contour, contours, signal intensity, symmetric, symmetry, position,
            aligned, number, mineralized, degenerative, configuration, texture, mineral""",
    Kind.DEVICE: """
        : wire, wires, sternotomy wire, sternotomy wires, sternal wire, sternal wires, hardware,
            lead, leads, pacemaker, pacemaker lead, catheter, catheters, screw, screws, plate,
            plates, rod, rods, clip, clips, stent, stents, port, line tip, prosthesis, implant,
            implants, device, pacing lead, pacing leads, electrode, electrodes, tube, tubes,
            sutures, suture, cerclage, sternotomy, sternal cerclage, sternotomy suture, nail,
            arthroplasty, pin, pins, picc, central line, valve, icd, defibrillator, stimulator,
            cable, cables, fixation hardware, surgical hardware, spinal hardware, filter, coil,
            coils, wiring, fixation device, cage implant, needle, shunt, tubing, closure device,
            anchor""",
    Kind.NOUN: """
        : joints, pneumothorax, pneumothoraces, effusion, effusions, lung, lungs, lobe, opacity,
            opacities, opacification, contusion, contusions, swelling, emphysema, heart,
            cardiac, cardiomediastinal, silhouette, mediastinum, mediastinal, deformity,
            deformities, dislocation, dislocations, subluxation, displacement, change, changes,
            angulation, alignment issue, atelectasis, consolidation, pneumonia, edema, nodule,
            nodules, mass, masses, hematoma, hemothorax, hemopneumothorax, osteopenia,
            osteoporosis, arthritis, arthrosis, arthropathy, osteophyte, osteophytes,
            spondylosis, scoliosis, dextroscoliosis, levoscoliosis, kyphosis, lordosis, disc,
            disk, disease, degeneration, lesion, lesions, metastasis, metastases, calcification,
            calcifications, granuloma, granulomas, lucency, lucencies, sclerosis, density area,
            artifact, foramen, thickening, complication, complications, infection, pain,
            tenderness, fall, injury pattern, resection, surgery, thoracotomy, mastectomy,
            vertebroplasty, kyphoplasty, fixation, orif, reduction, repair, callus maturation,
            union, bridging, fragment, fragments, step off, stepoff, separation, widening,
            joint, free air, diaphragm, hemidiaphragm, aorta, trachea, pleura, pleural,
            soft tissue, soft tissues, tissue, tissues, apex, apices, base, bases, fusion,
            narrowing, spurring, hyperostosis, ossification, island, flail chest, scarring,
            fibrosis, cardiomegaly, vascular, congestion, hilar, hila, loss of height,
            height loss, wedging, hernia, chest tube placement, healing time, progression,
            worsening, improvement, retropulsion, involvement, extension, comparison film,
            difference, stability, patient, exam, examination, study, radiograph, radiographs,
            film, films, image, images, view, views, ct, mri, imaging, follow up, series, space,
            interspace, intercostal, space narrowing, air, fluid, lymphadenopathy,
            hyperinflation, copd, laceration, rupture, tear, bleed, hemorrhage, bruise, defect,
            defects, irregularity, irregularities, disruption, discontinuity, infiltrate,
            infiltrates, mediastinal widening""",
    Kind.REFERENCE: """
        : at the level of, at level of, overlying, overlies, superimposed over, superimposed on,
            projecting over, projects over, projected over, below, above, beneath, behind,
            between, adjacent to, next to, near, underneath, abutting, lateral to, medial to,
            superior to, inferior to, anterior to, posterior to, proximal to, distal to, deep to,
            caudal to, cranial to, unlike, as opposed to, in contrast to, in contrast with,
            in comparison with, in comparison to, compared with the intact,
            compared to the intact, compared with the normal, compared to the normal""",
    Kind.SEEN: """
        : seen, identified, visualized, visualised, detected, demonstrated, noted, found,
            observed, appreciated, shown, present, evident, visible, apparent, recognized,
            recognised, apparently, discerned, delineated, depicted, revealed, reported,
            perceived, discernible, noticed, described, displayed, made out, suspected, obvious,
            indicated, exhibited""",
    Kind.VERB: """
        : is, are, was, were, be, been, being, has, have, had, there, appears, appear, appeared,
            seems, remains, remain, shows, show, showed, demonstrates, demonstrate, reveals,
            reveal, does, do, did, can, could, will, would, may, might, should, exhibit,
            exhibits, contain, contains, see, identify, detect, find, exists, exist, suffered,
            sustained, became, visualize, occurs, note, shall, must, depicts, depict, indicates,
            indicate, displays, display""",
    Kind.INVOLVE: """
        : involve, involves, involved, affected, involving, affect, affects, affecting, located,
            located in,
            located at, localized to, localized, most notably, specifically at,
            particularly the, concerning, comprising, levels are, sites, limited to, confined to""",
    Kind.AND: """
        : and, as well as, plus, along with, together with, and also, additionally, then""",
    Kind.OR: """
        : or, nor, and or""",
    Kind.PREPOSITION: """
        : of, in, on, at, with, from, by, within, along, to, into, through, across, for, due to,
            secondary to, related to, because of, following, after, since, around, during,
            under, over, despite, associated with, at the, onto, via, against, per,
            regarding the, resulting from, as a result of, caused by, surrounding, upon,
            about the, accompanying, accompanied by, toward, towards, extending to,
            extending into, inside, amid, out, traversing, crossing, extending through,
            complicating, adjoining, bordering, running through, coursing through,
            passing through, extending along""",
    Kind.ARTICLE: """
        indefinite: a, an, any
        definite: the, this, these, that, those, its, their""",
    Kind.BREAK: """
        : but, however, although, though, whereas, while, yet, nevertheless, nonetheless,
            despite this, even though, instead""",
    Kind.NEUTRAL: """
        noun: aspect, aspects, portion, portions, part, parts, arc, arcs, arch, arches, thirds,
            segment, segments, margin, margins, surface, end, region, regions, level, levels,
            border, location, locations, group, junction, prior study, prior exam,
            prior examination, prior radiograph, prior radiographs, prior film, prior films,
            prior ct, prior chest, previous study, previous exam, previous examination,
            previous radiograph, previous film, previous films, prior imaging, previous imaging,
            old films, old film, old studies, priors
        : process, appearing, looking, one, as, it, they, we, i, such, only, just, now, today,
            which, who, where, well, respectively, includes, include, included, which are,
            number, no number, midaxillary, axillary, midclavicular, line, costovertebral,
            seen best, best, please note, when, not seen on prior,
            not seen previously, not previously seen, not present previously,
            not present on prior, year old, years old, yr old, y o, yo, not visible on prior,
            not seen on the prior, previously seen, previously noted, previously described,
            not previously noted, not previously identified, not previously described,
            not present on the prior, not definitely seen on prior, not seen on previous,
            not seen on the previous, not visualized on prior, not visible on the prior,
            not visualized on the prior, not identified on prior, not evident on prior,
            not apparent on prior, not present before, not seen before,
            was not present previously, not identified previously, not clearly seen on prior,
            not well seen on prior, not noted previously, not noted on prior,
            not reported previously, not seen in prior, not seen in the prior,
            not seen on earlier, was not seen on, was not present on, were not seen on,
            were not present on, not previously reported, not previously present,
            not previously visible, not appreciated on prior, not identified on the prior,
            not evident on the prior, no doubt, undoubtedly, without doubt, without a doubt,
            without question, not only, no change, without change, not changed,
            not significantly changed, no significant change, cm, mm, yes, image shows,
            radiograph shows, x ray, xray, xr, cxr, ap, pa, shows a, he, she, very, quite, too,
            compared, comparison, compared with, compared to, compared to prior, since prior,
            since previous, compared to previous, new line, new paragraph, status post fall,
            status post mvc, status post mva, status post trauma, status post motor vehicle,
            history of trauma,
            history of fall, history of pain, history of malignancy, history of cancer,
            following fall, fell, mvc, mva, male, female, man, woman""",
    Kind.FOREIGN: """
        : fractura, fracturas, fratura, fraturas, frattura, fratture, fraktur, frakturen,
            fraktura, fraktury, fractuur, fracturen, fractuyr, brudd, brud, murtuma, zlamanie,
            kirik, la, le, les, du, des, el, los, las, del, della, dello, delle, il, lo, gli,
            der, die, das, dem, den, ein, eine, einer, und, oder, ohne, kein, keine, nicht, mit,
            de, da, dos, sem, sin, senza, sans, pas, aucune, aucun, con, avec, et, ou,
            izquierda, izquierdo, derecha, derecho, esquerda, esquerdo, direita, direito,
            gauche, droite, droit, links, rechts, linken, rechten, sinistra, destra, sinistro,
            destro, linke, rechte, linker, rechter, cotes, cote, costilla, costillas, costela,
            costelas, costale, costales, rippe, rippen, ribben, ribbe, hay, observan, observa,
            visible en, nessuna, nessun, ingen, inga, geen, niet, ikke, ej, clavicula,
            klavikula, schlusselbein, wirbel, nachweisbar, visibles, ist, sind, est, sont, sono,
            je, nie, bez, yok, tidak, ada, ei, och, og, arco, arcos, costal izquierdo, visivel,
            evidencia, traits, nivel, sul, nella, aux, au, van, het, een, venstre, hoyre, hogre,
            vanster, hoger, van de""",
}

_CARDINALS = """
one two three four five six seven eight nine ten eleven twelve
"""
CARDINALS = tuple(_CARDINALS.split())
_ORDINALS = """
first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth
"""
ORDINALS = tuple(_ORDINALS.split())
NUMBER_TYPOS = {
    "frist": 1, "firt": 1, "secnd": 2, "thrid": 3, "forth": 4, "fith": 5, "fifht": 5, "fiftth": 5,
    "sixt": 6, "sxith": 6, "sixh": 6, "eigth": 8, "eigthth": 8, "nineth": 9, "nith": 9, "tenht": 10,
    "twelveth": 12, "twelth": 12,
}  # fmt: skip
FRACTURE_NOUNS = ("risk", "clinic", "probability", "score", "protocol", "assessment", "evaluation",
                  "prevention", "liaison", "precautions", "detection", "threshold", "prediction",
                  "classification", "mechanics", "healing clinic", "follow up")  # fmt: skip

# Words whose misspellings are understood; everything else must be spelt right.
_TYPO_TARGETS = """
fracture fractures fractured clavicle clavicles clavicular scapula scapular humerus humeral
sternum sternal vertebra vertebral vertebrae manubrium acromion glenoid coracoid compression
deformity displaced nondisplaced bilateral posterior anterior lateral healing healed chronic
possible probable suspicious suspected questionable multiple evidence identified intact thoracic
lumbar third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth second first without
acute callus remote normal osseous unremarkable dislocation pneumothorax consistent excluded
represent degenerative
"""
TYPO_TARGETS = tuple(_TYPO_TARGETS.split())
# Words of ordinary report English that carry no meaning here but are not foreign or garbled.
_PLAIN = """
able above according active additionally age aged air all almost alone already am amount an answer
area areas arising aspect assistant at atrium available away axilla back background bad basal
based basis because become before began begin below best better big black bottom break breaks
bulla by call called came cause causing cavity center chair change chart chest chin clear clearly
clinical clinically close coarse comes common completely concurrently condition conclusion
confirmed considered correlate correlation correlates course current currently date day days
decreased dedicated depth describe details diffuse diffusely direct directly discuss disrupted
doctor down due each earlier early edge effect eight elderly emergency end enlarged enough entire
entirely especially essentially even exact exactly example excellent external extent extends
extending eye face fact feel feels field fine five focus follow followed for form four frontal
full further general generalized give given good great greater ground had half help here high
history hours however idea impression increase increased increasing indeed information initial
interior internal interpretation interpreted into involved irregular issue keeping key known
language large last late later least less let light little local long looks low made main major
make male management mark marking material matter mean medical member mention midline mild minor
model moderate month months most much nature near need needed new next nice night nine nodular
none normal note nothing notice number obtained occurred ok on once opinion option order other our
out outside overall overlap overlapping part past pattern patients perform performed person
physician place placed plain please point portable position possible post posture prominent
provided put quality quick quite radiologist rather read reader reading real really reason
reasonable received region regular report request requested result results review right root
rotation same scan second section sections seven several shadow shape sharp shift short side sight
significant similar since site six slight small smooth so soft some sorry specific spiculated
stable standing star start state still stop structure structures subject sudden summary supine
sure surface surgical symptoms system take technique ten term test than that then therefore these
thick thin thing think third this those three time times tip together top tract trauma traumatic
treatment true two type typical typically under until upright upper use used using usual value
vary vehicle ventricle ventricular atrial versus very view visit volume volumes warranted way
weather week weeks weight were what whatever when where white who whole why wide width window
within word work year years young your you my he she his her him us me numeral coastal eternal
shadows lungs mass radiology resident ed icu axis apical basilar hypoinflated expanded inflated
clearing degenerated demineralized osteopenic arthritic sclerotic osteolytic destructive lucent
dense imaged included midthoracic retrosternal retrocardiac subcutaneous extrapleural paraspinal
ill defined smaller larger lesser overlie overlying cortex alveolar interstitial bibasilar
inferior superior dextro levo findings motor motorcycle accident assault cough dyspnea fever
shortness breath smoker cancer malignancy metastatic myeloma lymphoma breast prostate interval
appearance trace thorax trunk bodies discs levels flowing anteriorly body bridging mature immature
exuberant surrounding associated attached inserted overriding override apposition angulated
rotated shortened telescoped fragmented butterfly bayonet intervening neighboring neighbouring
sided spared sparing skeletally tumor tumour wall
"""
PLAIN = frozenset(_PLAIN.split())
