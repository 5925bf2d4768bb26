"""Plots in which friends race, wait, help, tell the truth, meet, dig, quarrel and wish; notation as in `plots`."""

from __future__ import annotations

PLOTS_OF_FRIENDS = {
    "race": """
[One day|In spring] there was a big race [around {place}|to {place} and back]. {other} {the_other} said, "I am the
  fastest. [Nobody can beat me!|I will win!]" {hero} only smiled and [said nothing|waited].
"One, two, three, go!" [called|shouted] {friend} {the_friend}, and they [ran off|all ran]. {other} was [soon|at
  once] far in front. {hero} was [second|the last].
[In the middle of the way|Near the end], {other} [fell into a hole|hurt {fohis} foot on a stone] and [cried for
  help|could not get up]. The others [ran past|did not stop], but {hero} stopped.
"[Go on, or you will not win|Run, or you will lose]!" said {other}. "[A friend is more than a prize|You are more
  important]," said {hero}, and [helped {fohim} up|took {fohim} by the hand].
Together they walked slowly to the end. They were [the very last|the last of all], but everybody clapped [for
  them|and cheered].
{friend} gave {hero} {a_thing}. "[This is for the kindest heart|You did not win the race, but you won a friend],"
  {fhe} said. [{other} was never proud again.|And {other} and {hero} became good friends.]
""",
    "seed": """
One [day|spring morning], {friend} {the_friend} gave {hero} a [tiny|little] seed. "[Put it in the ground and
  wait|Plant it and give it water]," said {friend}. ["It is a secret what it will be."|]
{hero} [made a hole in the garden|dug a small hole] and planted the seed. Every [day|morning] {he} gave it water.
  But [nothing happened|nothing could be seen]. "[Maybe it is broken|It does not grow]," said {hero}.
"[Good things take time|Wait a little]," said {friend}. So {hero} waited. [The rain came and the sun came.|One week
  passed, and then another.]
Then, one morning, there was a [small green leaf|little green plant]! It grew and grew[, as tall as {hero}|, as tall
  as a house|]. In [summer|autumn] there was a [huge|very big] {plant}.
{hero} [could not carry it alone|pulled and pulled, but it was too heavy]. {friend} and {other} {the_other} came and
  helped {him}. ["One, two, three!" they called.|They pulled all together.]
[They made a big soup of it|They cooked it in a big pot] and [everybody in {place} got some|invited all their
  friends]. "[You were right|Now I know it]," said {hero}. "Good things take time."
""",
    "stuck": """
[One day|One morning] {hero} heard [a cry|somebody call]. "Help! Help!" [It came from {place}.|{he} ran as fast as
  {he} could.]
It was {friend} {the_friend}. {fhe} was stuck [in a deep hole|in the mud|between two big stones] and could not get
  out. "[I have been here all night|Please help me]," said {friend}.
{hero} pulled [with all {his} strength|and pulled], but {friend} did not move. "I am too weak," said {hero}. "[Wait
  here|Don't be afraid]. I will get {other}."
{hero} ran to {other} {the_other}. ["I have a long rope," said {other}.|{other} took a long rope and came at once.]
  They [tied|put] the rope around {friend}. Then {hero} and {other} pulled together.
[Slowly, slowly|Little by little] {friend} came up, and [plop|suddenly], {fhe} was free! They all fell [over|into
  the grass] and laughed.
"[You saved me|Thank you both]," said {friend}. "[Today you all eat at my house|Come to my house for {food}]!" And
  [that is what they did|so they did]. [What one cannot do, three can.|]
""",
    "truth": """
One day {hero} was playing [with {his} {thing}|in the house]. [Suddenly|Then] there was a loud crash. The
  [beautiful|old] {vase} of {friend} {the_friend} was broken.
{hero} was [afraid|frightened]. "[If I tell it, {friend} will be angry.|What should I do?]" {he} thought. {he} [hid
  the pieces under the bed|put the pieces behind the door] and ran away.
In the evening {friend} asked, "Who broke my {vase}? [Was it the wind?|Was it {other}?]" {hero} said nothing. But
  [{his} heart was heavy|{he} felt very bad], and at night {he} could not sleep.
In the morning {he} went to {friend}. "It was me," {he} said [and began to cry|very softly]. "I broke it. I am so
  sorry."
{friend} [looked at {him} for a long time|was quiet for a moment]. Then {fhe} smiled. "[A {vase} is only a thing|I
  can get a new one]," {fhe} said. "[I am glad that you told me the truth|Thank you for telling me the truth]."
[Together they glued the pieces.|{hero} made a new one out of clay.] [It was not as beautiful as before, but
  {friend} loved it even more.|And {hero} felt as light as a feather.]
""",
    "neighbour": """
[One day|In autumn], somebody new moved [into the house next door|to {place}]. It was {friend}, {a_fkind}. {friend}
  was [very shy|so shy] and never [came out|said a word].
"[{friend} is strange|{friend} does not like us]," said {other} {the_other}. But {hero} [did not believe it|thought
  about it]. "[Maybe {friend} is only afraid|I think {friend} is alone]," {he} said.
So {hero} [baked|made] {food} and put it in front of {friend}'s door. [The next day|In the morning] it was gone, and
  there lay a [little picture|beautiful flower]. "Thank you" was written on it.
The day after, {hero} [came again|knocked on the door]. "[Do you want to play with me?|Would you like to see
  {place}?]" {he} asked. {friend} [thought for a while|looked at the floor] and [then said yes|then smiled].
They [played with the {thing}|went to {place}] and soon they [laughed|talked] like old friends. {friend} could [sing
  like nobody else|tell the best stories|draw wonderful pictures].
[Now all the others wanted to be friends with {friend} too.|"I was wrong," said {other}. "{friend} is nice."] [And
  {friend} was never alone again.|Sometimes a friend is just behind the next door.]
""",
    "treasure": """
One day {hero} found an old map [in a book|in a bottle|under the roof]. There was a red cross on it, [near
  {place}|behind {place}]. "A treasure!" [cried|whispered] {hero}.
{he} showed the map to {friend} {the_friend}. "[Let us go|We must go and look]!" said {friend}. They took [a rope
  and a lamp|a spade and {food}] and [left at once|went on their way].
They walked [over the hill|through the dark forest] and [across a river|over an old bridge]. [Once they lost their
  way, but {friend} asked {other} {the_other}.|It was hot, and they were tired.] ["Shall we go home?" asked
  {friend}. "No," said {hero}, "it is not far now."|]
At last they came to [a big tree|a big stone]. [Here they began to dig.|"This is the place," said {hero}.] They dug
  and dug until they hit something hard. It was [a box|an old chest]!
[Slowly|With shaking hands] {hero} opened it. There was no gold in it. There was only {a_thing} and a letter: "[The
  real treasure is the friend who came with you|Who reads this has a good friend]."
{hero} and {friend} looked at each other and [laughed|smiled]. ["That is true," said {friend}.|"The letter is
  right," said {hero}.] And they [ate {food} under the tree|walked home arm in arm].
""",
    "quarrel": """
{hero} and {friend} {the_friend} were [best friends|good friends]. But one day they both wanted [the same|to play
  with the] {thing}. "[It is mine|I had it first]!" [shouted|cried] {hero}. "No, [mine|I had it]!" shouted {friend}.
They pulled and pulled, and [crack|suddenly], the {noun} broke. "[It is your fault|Look what you did]!" they both
  said. They went home and were [very angry|angry].
The next day {hero} [played alone|sat alone near {place}]. [It was no fun at all.|It was very quiet.] "[I miss
  {friend}|Without {friend} it is boring]," {he} thought.
{friend} was sad too. {other} {the_other} [saw them|talked to both of them] and said, "[A {noun} can be mended. Can
  you mend a friend?|What is more important, a {noun} or a friend?]"
So {hero} went to {friend}, and {friend} was just coming to {hero}. They met in the middle of the road. "I am
  sorry," they both said at the same time, and they had to laugh.
Together they [mended|repaired] the {noun}. [It was as good as new.|Now it was even better than before.] And [from
  then on|from that day] they always [shared|took turns].
""",
    "star": """
One night {hero} looked up at the sky and saw a falling star. "I [wish|want] to [see the sea|fly like a bird|have a
  real friend|go on a long journey]," {he} [whispered|said].
[Suddenly|Then] there was a small light [in the garden|in front of {him}]. It was the star! "[I have fallen from the
  sky|I have lost my way]," said the star. "[Can you help me to get home?|I want to go back to my family.]"
{hero} [put the star into {his} pocket|took the star in {his} hands] and went to {friend} {the_friend}. "[The
  highest place is the mountain|We must climb the high mountain]," said {friend}. "[I will come with you|Let us go
  together]."
They climbed [all night|for a long time]. [It was cold, but the star kept them warm.|The way was dark, but the star
  gave them light.] At the top, {hero} [held the star up high|threw the star up into the sky].
"Thank you," said the star, and it flew [up and up|higher and higher] until it was [home again|a little point of
  light].
[Since then, one star winks at {hero} every night.|And {hero} understood that the wish had come true: {he} had found
  a friend.] [{hero} and {friend} looked up and waved.|"Good night, little star," said {hero}.]
""",
}
