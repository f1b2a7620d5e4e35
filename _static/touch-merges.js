// Chapter 2: a text, cut with more and more merges, and how each token came to be.
(() => {
  "use strict";

  // The first 1,000 merges that the library learns from 1,100,000 characters of Shakespeare's plays, left and right
  // in turn; bytes are written as GPT-2 writes them, a blank as Ġ.
  const learned = String.raw`
    Ġ t h e Ġ a o u Ġ s i n Ġ m Ġ w r e h a Ġt he n d Ġ b e r i s o r i t o n l l Ġ f e s Ġ c e n Ġ y Ġ n Ġ d Ġ l Ġ o
    Ġy ou a r Ġ h Ġ p Ġt h Ġt o Ġa nd ha t v e Ġ he o t a n Ġ I Ġo f o w s t in g o m Ġ g a t Ġb e e d Ġ ha Ġ in s e l
    d i r l e U S a y Ġm y c e e t u t i m Ġn ot c h it h ou r Ġm e g h Ġ is Ġ e Ġ it ' s u s Ġt hat Ġf or i ll Ġw e o
    o k e a d en t he r T he Ġyou r Ġw ith i d a s E N Ġh is I US Ġha ve r i t er Ġh im r a Ġs t A nd or d ' d Ġ k u n
    om e Ġs o Ġ re l y Ġ on Ġa s ou ld Ġth is a l h i o re gh t L E A R Ġ C Ġth ou v er i on es s Ġd o Ġl i oo d u r a
    in a m es t Ġs e c k Ġs ha Ġb ut r o Ġn o Ġd e A N Ġw ill p e Ġhe r T h I N T o a ke a nd t h Ġa n Ġ u E R i f Ġa
    ll u e ha n Ġ our Ġl o a k Ġk n Ġ ' Ġsha ll Ġ v Ġa re i l O L Ġ H O N - - h o c t g e Ġ P e ll r om hi ch Ġs h i
    ght T hat Ġn e Ġth y Ġf a u st Ġb y Ġs u ar t Ġl ord ow n A M ar d on e ' ll se l Ġ L a st he n Ġu p in e E S Ġ S
    Ġw hat Ġg o Ġa m Ġm an e nd Ġthe e Ġthe m Ġg ood Ġa t ou t E L an t B ut o st i ve Ġw as e m O R Ġm ore Ġ r er s
    Ġc om Ġ A Ġf rom Ġs he W hat l i he re Ġc on H e u re v en T R b le ou s Ġt r E x Ġkn ow E n w e Ġ or Ġw ould Ġc
    an re at ir st u l Ġ M Ġs ir a ve Ġ us n t Ġthe re A s q u Ġthe y Ġ G u m Y ou a ll Ġp r in d in k o nd re s e p '
    t Ġ if on g Ġw or Ġt han Ġthe ir f e i c sel f Ġs pe Ġn ow Ġl e En ter Ġb l or t Ġp l Ġlo ve ot h Ġw hich o l i e
    Ġ un Ġs ay Ġ hat v es o ld Ġm ad Ġl et p p r y LE T AM LET Ġthe n Ġon e a re at e Ġs p ot her at her I A e ar Ġhe
    re Ġc ome F irst is h Ġwe ll Ġse e Ġ O ou nd it y Ġa r H AMLET Ġha d Ġm ust W e Ġd id am e Ġli ke Ġsh ould Ġm ake
    g ain O M F or at h Ġup on p t Ġto o oo k Ġb r P A f ore ver y AN T M y L A a u en ce Th is Ġh on Ġhat h W ith O f
    Ġspe ak Ġ j im e Ġ out t her Ġw ho Ġd is h y m an Ġw hen T ES c i un t T A Ġ R Ġwe re Ġp o i ce Ġm ay Ġm ost ou gh
    M AR i es Ġp ro B e n ess id e Ġk ing Ġsu ch w n a ck Ġb o Ġa gain t o o se Ġy et S o e l u ch I n Ġth ink i re
    Ġof f Ġg reat or n i g Ġs a ad y N o Ġe y I f , -- er v g er Ġ B Ġf o Ġ F Ġ en e c Ġs ome Ġhe ar at ion Ġe x r ow
    Ġhe art e unt a ce Ġ D Ġa l Ġm ine Ex eunt I L n ot ent le Ġ ANT W hich ON Y TR A ĠANT ONY er t ĠL ord M O O S i
    er Ġs we Ġf ather Ġp art ing s Ġt ime an ce IN G w ay Ġg ive EN A O PA Ġha nd LE OPA LEOPA TRA f f t is Ġ qu OR I
    K ING Ġt ake Ġa b Ġw here Ġg ra W here Ġ ro ar s LE ON Ġhon our H ow Ġt w is e Ġf l Ġh ow I O ri end Ex it A T
    Ġthe se Ġm uch h ing Ġm o IN IUS m ent Ġo wn a g Ġs w O T H EL Th ou Ġm ar Ġl ook Ġd es Ġbe t ur n ER TR I t U T a
    se is t I MO ĠC a Ġhe a C LEOPATRA Ġf riend W hy in ce i ck q ue ou nt MAR K ec ond U D W hen n g Ġt ell it her I
    D o p Y our l own t he Ġne ver S econd u d Ġo ther Ġp e Ġc ha an s Ġmad e a ge Ġcom m Ġ very The re Ġst r C E p er
    Ġs on ct ion d s Ġli fe i gh re e Ġc all B EL Ġc our Ġd one as s I s Ġde ath Ġtr ue Ġcan not L et W ho ll ow es ar
    ve d EN EN IN CE ENEN IUS I T T H i a AN US b e Ġh o f t Ġ que Ġa d Ġs c OL ANUS ORI OLANUS r it Ġha st Ġar t O B
    Ġque en ow er Ġbe en i us u ll U M Ġp re Ġp er Ġfa ir Ġe ar LE S o s Ġn ight AR OL AROL LES Q U a p Ġno ble I C M
    ENENIUS Ġw ord Ġpr ay Ġswe et B y c c i z Ġw h Ġf ear Ġhea ven om an res s C H R e f or Ġw ay Ġwor ld Ġbl ood Ġpl
    ay it t Ġe ver Ġtw o Ġp ur Ġre m e ed Ġa f Ġm other Ġd own au gh Ġm en Ġ T Ġa way on s on y Ġc ould Ġg entle Ġey
    es f ul ow s C ORIOLANUS I AN Ġ ra Ġn or a ble b er Ġ ri Ġt ri Ġp le n ce Ġd ay ĠA nt N ow Ġw ar Ġn at Ġre p Ġle
    ave Ġm a Ġl ady Ġbe ing T han b l Ġ im nd er ar k Ġth us Ġst and HEL ENA at ter ĠCa esar o d Ġ ke Ġnot hing P
    AROLLES ig n R Y or s EN RY ĠH ENRY Ġfo llow t end Ġm ight Ġbe g if e C TA O r S AN Ġ EN Ġd r CTA V B US N ot P R
    S he a ch Ġp res AR BUS OB ARBUS ĠEN OBARBUS Ġ E Ġg r oo l Ġan y OM IT OMIT IUS G EN c es Ġn ame Ġbe fore Ġthou
    ght e e Ġc l Ġha r re d IC INIUS i le in ess Ġf ell LEON TES Ġcour t C ome c y un e ĠR ome Ġpo or C lown H is i an
    o y Ġs l Ġf ind Ġp ut A y u ck he s I R c ome t y Ġ i Ġfriend s PR INCE A L T is le ep ent er Ġde ar OR AT ERTR AM
    ORAT IO N ay Ġb ra it e Ġg one Ġgo ds Ġ J Ġb est is s ĠC A ĠAnt ony i ed Ġb oth it iz Ġth ing le t itiz en n e Ġ
    The Ġth ose Ġfor t hi p ast er m e s w ou ght Ġo ld Ġha s Ġde ad ES AR k s ON IUS Ġcon t ĠCA ESAR c l g et at ch
    ĠC LA UD IUS augh ter CTAV IUS ĠCLA UDIUS D o E EN v ing Ġs et Ġs erv in t Ġb re Ġe nd ak es Ġman y Ġar m Ġwho se
    IMO GEN QU EEN S ICINIUS Ġl ong Ġin d ĠP OL A ll W ill W ell Ġc ount Ġl a Ġcom p IL L E U w ard ha ll Ġse em Ġmad
    am Ġnat ure e f ou l Ġh old Ġp ower Ġbe ar Ġf e ess en Ġbet ter D OMITIUS Ġw ife it s Ġf irst Ġhe ad Ġin to Ġdo es
    sel ves Ġcon s s s or row F EU H ORATIO S t Ġhim self Ġne w ĠPOL ONIUS o ve Ġd oth Ġsh ow Ġsw ord Ġ But Ġv ir Ġke
    ep at i ĠS old Ġcom es UT US R UTUS w ell Ġc r Ġst ill est y th y i ous x t Ġa pp om et Ġbo y sw er B ERTRAM G ood
    essen ger C Y O ur Ġ What he e ou n is on Ġthou gh TH UM p s Ġc han The y Ġli e Ġagain st F F S TA Ġs er it ion as
    ure au se itt le AL STA ALSTA FF H ave Ġ V ER M Ġbr other op le U N Ġm atter re n Ġc hi Ġe very O CTAVIUS l ess Ġt
    ong er m Ġh our Ġth r ut h Ġe l Ġan swer LA FEU P U l es Ġs leep re t Ġb us Ġf ool Ġh ome AM ILL ci us ert ain C O
    F ALSTAFF M BEL l ed Ġs m ce ive Ġe m IN E Ġbr ing MBEL INE Ġs en Ġm aster Ġd ra Ġl ittle Ġp ass Ġg u Ġmy self as
    on TES S Ġey e UN TESS a il Ġ W Ġd aughter Ġhe ard He re ĠM ar Ġsa id S ir ou se Ġm er Ġc o Ġg i li e A G B RUTUS
    G U s and Ġp a ĠC itizen ĠS erv ear s Ġpe ople Ġaf ter Ġpres ent L OT N or l p r ay Ġth ine OL Y ul t OS THUM LEON
    AT ĠSold ier LOT EN OSTHUM US LEONAT US l come Ġa cc Ġm ist Ġh igh Ġth ings ir d ain t C IUS Ġ LEONATUS Ġr ather
    Ġcon f get her V IR g ed p le Ġ This in s Ġn one Ġfor th CH IMO F rom a c r u Ġa p or se on t Ġd ie Ġme an Ġso ld
    Ġli ve OR D Ġel se CO UNTESS L ORD Ġc h Ġbe d CY MBELINE . '
  `.trim().split(/\s+/);
  const merges = Array.from({ length: learned.length / 2 }, (_, k) => learned.slice(2 * k, 2 * k + 2));

  // GPT-2's letter for each byte: itself if it can be printed, or else the next one from 256 on.
  const isPrinted = (byte) => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
  const bytes = Array.from({ length: 256 }, (_, byte) => byte);
  const hidden = bytes.filter((byte) => !isPrinted(byte));
  const LETTERS = bytes.map((byte) => String.fromCharCode(isPrinted(byte) ? byte : 256 + hidden.indexOf(byte)));

  const rank = new Map(merges.map((pair, k) => [pair.join(" "), k]));
  const ids = new Map(LETTERS.map((letter, byte) => [letter, byte]));
  for (const pair of merges) if (!ids.has(pair.join(""))) ids.set(pair.join(""), ids.size);

  // Merges never cross the border of a piece: a word with the blank before it, a number, signs, white space.
  const PIECE = /'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

  // The tokens of a text after the first n merges. Each knows the two that it was made of, and by which merge.
  function cut(text, n) {
    return (text.match(PIECE) || []).flatMap((piece) => {
      const parts = [...new TextEncoder().encode(piece)].map((byte) => ({ token: LETTERS[byte] }));
      for (;;) {
        const ranks = parts.slice(1).map((right, i) => rank.get(`${parts[i].token} ${right.token}`) ?? n);
        const first = Math.min(n, ...ranks);
        if (first === n) return parts; // no neighbours are left that were learned
        const i = ranks.indexOf(first), [left, right] = parts.slice(i, i + 2);
        parts.splice(i, 2, { token: left.token + right.token, left, right, merge: first + 1 });
      }
    });
  }

  // A token as text; bytes that are only a part of a character are written in hexadecimal.
  function spell({ token }) {
    const raw = Uint8Array.from(token, (letter) => ids.get(letter));
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(raw);
    } catch {
      return [...raw].map((byte) => `⟨${byte.toString(16)}⟩`).join("");
    }
  }

  const height = ({ left, right }) => (left ? 1 + Math.max(height(left), height(right)) : 0);
  const compute = { merges, encode: (text, n) => cut(text, n).map(({ token }) => ids.get(token)), cut: (text, n) => cut(text, n).map(({ token }) => token) };

  arbookTouch.place("merges", compute, (touch) => {
    const text = touch.text({ label: "a text", value: "Nothing will come of nothing: speak again." });
    const count = touch.slider({ label: "merges", min: 0, max: merges.length, value: 700, format: (n) => `${n} of ${merges.length}` });
    const tokens = touch.words("The tokens of the text");
    const tree = touch.panel("How the chosen token was merged");
    tokens.chosen = 6;
    touch.draw(() => {
      const all = cut(text.value, count.value);
      tokens.show(all.map(spell), (i) => arbookTouch.depth(all[i].token.length));
      const chosen = all[tokens.chosen];
      tree.show(190, (width, high) => (chosen ? draw(chosen, width, high) : ""), chosen ? spell(chosen) : "no token");
      const size = new TextEncoder().encode(text.value).length;
      const made = chosen?.merge ? `, made by merge ${chosen.merge} of “${spell(chosen.left)}” and “${spell(chosen.right)}”` : ", a single byte";
      touch.say(chosen ? `${size} bytes, ${all.length} tokens: ${(size / all.length).toFixed(2)} bytes per token. Token ${tokens.chosen + 1}, “${spell(chosen)}”, has the id ${ids.get(chosen.token)}${made}.` : "No text, no tokens.");
    });

    // The tree of merges: bytes at its foot, and above every two what they became, with the number of the merge.
    function draw(root, width, high) {
      const gap = Math.min(64, width / root.token.length), floor = high - 14, levels = Math.max(height(root), 1);
      const y = (node) => floor - (height(node) * (floor - 20)) / levels;
      const seen = (node) => spell(node).replace(" ", "␣");
      let leaf = (width - gap * root.token.length) / 2 - gap / 2;
      const place = (node) => {
        if (!node.left) return { x: (leaf += gap), svg: touch.label(leaf, floor + 4, seen(node)) };
        const parts = [node.left, node.right].map((part) => ({ ...place(part), top: y(part) - (part.left ? 22 : 12) }));
        const x = (parts[0].x + parts[1].x) / 2, top = y(node);
        const arms = parts.map((part) => touch.line([[x, top], [part.x, part.top]], "line mute")).join("");
        const dot = touch.shape("circle", { class: `fill ${node === root ? "now" : "past"}`, cx: x, cy: top, r: 4 });
        const name = touch.shape("tspan", { class: "ink strong" }, touch.escape(seen(node))) + touch.shape("tspan", { class: "mute", dx: 4 }, node.merge);
        return { x, svg: parts.map((part) => part.svg).join("") + arms + dot + touch.shape("text", { x, y: top - 9, "text-anchor": "middle" }, name) };
      };
      return place(root).svg;
    }
  });
})();
