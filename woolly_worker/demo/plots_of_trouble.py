"""Plots in which something is lost, hard, wet, hungry, loud or forgotten; the notation is that of `plots`."""

from __future__ import annotations

PLOTS_OF_TROUBLE = {
    "lost": """
[One day|One morning|That afternoon] {hero} [could not find|lost] {his} {thing}. "[Oh no!|Oh dear!] Where is my
  {noun}?" {he} [said|cried].
{he} looked [under the bed|behind the door|in the kitchen], but [it was not there|there was only {a_junk}].
Then {he} looked [near {place}|in the tall grass|by the old tree], but {he} only found {a_junk}.
{hero} [sat down|sat on a stone] and began to cry. {friend} {the_friend} [came by|heard {him}] and asked, "[Why are
  you sad|Why are you crying|What is wrong], {hero}?"
"I have lost my {noun}," said {hero}. "[Do not worry|Don't worry|Dry your tears]," said {friend}. "[I will help
  you|We will look together|Four eyes see more than two]."
[They looked and looked.|Together they looked everywhere.|They walked all the way to {place}.] At last {friend} [saw
  something {colour}|pointed] [up in a tree|under a bush|behind a big stone]. It was the {noun}!
{hero} was so [happy|glad] that {he} [danced|jumped up and down|laughed]. "Thank you, {friend}!" {he} said.
[From that day on, {hero} took good care of {his} {noun}.|They played with the {noun} until the sun went down.|That
  evening they shared {food} and were happy.]
""",
    "found": """
[One day|One morning], {hero} found {a_thing} [near {place}|on the road|under a tree]. "[Whose {noun} is this?|Who
  has lost this {noun}?]" {he} [wondered|thought].
{hero} [wanted to keep it|liked it very much], but {he} knew that [it belonged to somebody else|somebody must be sad
  without it].
So {he} asked {other} {the_other}. "Is this your {noun}?" "No," said {other}, "[it is not mine|my {noun} is at
  home|I have never seen it before]. Ask {friend}."
{hero} walked [over the hill|across the bridge|along the river] to {friend} {the_friend}. {friend} [was sitting|sat]
  in front of {fhis} house and looked very sad.
"[Is this your {noun}?|Did you lose {a_thing}?]" asked {hero}. "Yes!" cried {friend}. "I [looked for it all
  day|thought it was gone for ever]. [Thank you so much!|You are so kind!]"
{friend} [gave {hero} {food}|invited {hero} to eat {food}], and they [talked|laughed] until the stars came out.
[{hero} went home with a warm heart.|Since that day, {hero} and {friend} have been best friends.|{hero} had no
  {noun}, but {he} had a new friend, and that was better.]
""",
    "practice": """
{hero} wanted to {skill}, but {he} did not know how. {other} {the_other} laughed. "You will never {skill}!" {fohe}
  said.
[The first time|At first] {hero} tried, {he} [fell on {his} nose|fell into the mud|was afraid and ran home]. [It
  hurt a little.|{he} was very sad.|]
{friend} {the_friend} [saw it|was watching] and said, "[Try again|Do not give up], {hero}. [Nobody can do it the
  first time.|I will show you.|You only need a little time.]"
So {hero} practised [every day|every morning|day after day]. [On Monday it was bad. On Tuesday it was a little
  better.|It rained, but {he} did not stop.|{friend} always helped {him}.]
[After a week|At the end of the month|One sunny day], {hero} could {skill} [very well|better than anybody else].
  Everybody [came to look|clapped] and {other} said, "I am sorry that I laughed. [Can you show me too?|You are
  great!]"
"[Yes, of course|Of course]," said {hero} with a smile. "[You only have to try again and again|It is easy if you do
  not give up]."
""",
    "storm": """
One [day|evening], {hero} was [playing|walking] near {place} when dark clouds came. [Soon it began to rain.|The wind
  began to blow and the rain began to fall.]
"I am [so wet and cold|all wet]," said {hero}. "[Where can I go?|I must find a dry place.]" {he} ran and ran, but
  {his} home was [too far away|far away].
Then {he} saw a [small|little] light. It came from the house of {friend} {the_friend}. {hero} [knocked on the
  door|knocked three times].
"Who is there?" asked {friend}. "It is me, {hero}. [May I come in?|Please let me in!]" The door opened, and {friend}
  said, "Come in, come in! [You poor thing!|You are all wet!]"
{friend} gave {him} [a warm blanket|a dry towel] and {food}. They sat by the fire and [told stories|sang songs]
  [while the storm went on|until the rain stopped].
[In the morning|When the storm was over], the sun came out and there was a [big|beautiful] rainbow [over {place}|in
  the sky]. "Thank you, {friend}," said {hero}. "[When it rains again, you can come to my house|You are a true
  friend]."
""",
    "share": """
One [day|morning], {hero} [made|had] {food} for [lunch|a picnic]. {he} sat down near {place} and wanted to eat.
Then {friend} {the_friend} came by. {fhe} looked [very hungry|tired and hungry]. "[I have not eaten all day|I have
  nothing to eat]," said {friend} [softly|in a small voice].
{hero} looked at {his} food. [There was not much of it.|It smelled so good.] [But {he} had a kind heart.|But then
  {he} looked at {friend}.] "[Sit down|Come here]," {he} said. "[Half of it is for you|We will share it]."
[They ate together and it tasted better than ever.|They ate every little bit and laughed a lot.]
[Some days later|When winter came|A week later], {hero} [could not find any food|was ill and could not leave {his}
  bed]. There was a knock at the door. It was {friend} with a big [basket|bag] full of {food2}.
"[You shared with me, and now I share with you|You helped me, so I help you]," said {friend}. {hero} [smiled|was
  very happy]. [A friend is worth more than gold.|It is good to have friends.|Who gives with a good heart gets much
  back.]
""",
    "build": """
One day {hero} wanted to [make|build] a {project}. "I need {part1}, {part2} and {part3}," {he} said, "but I have
  nothing at all."
{he} went to {friend} {the_friend} and asked, "[Do you have|Can you give me] {part1}?" "[Yes, here you are|Of
  course]," said {friend}. "[May I help you?|Can I come with you?]" "[Yes, please|Gladly]," said {hero}.
Then they went to {other} {the_other}, who gave them {part2}. [And near {place}|Behind the house|On the way home]
  they found {part3}.
They worked [all day|from morning to evening]. [{friend} held everything and {hero} put it together.|It was hard
  work, but they sang all the time.] [Once it broke, and they had to start again.|]
At last the {project} was ready. It was [a little crooked|not perfect], but [it was theirs|they loved it]. "[Look
  what we made!|We did it!]" [cried|shouted] {hero}.
[All their friends came to look.|{other} came too.] [Everybody had a wonderful day.|They had so much fun that day.]
  "[Alone I could not do it|I could not do it alone]," said {hero}, "[but together we can do everything|but with
  friends it was easy]."
""",
    "noise": """
One night {hero} [lay in bed|could not sleep]. Then {he} heard a [strange|loud] noise outside. "[{noise}!
  {noise}!|{noise}, {noise}, {noise}!]" it went.
{hero} was [afraid|very scared]. "[Is it a monster?|Maybe it is a ghost!]" {he} thought, and [hid under the
  blanket|pulled the blanket over {his} head].
But the noise did not stop. So {hero} took [a candle|a lamp] and [slowly opened the door|went out on tiptoe]. [The
  moon was big and round.|It was very dark.]
"[Who is there?|Hello?]" {he} asked [with a small voice|softly]. [Something moved behind the tree.|Two eyes looked
  at {him} from the dark.] It was {friend} {the_friend}!
"[I am sorry|Oh, sorry]," said {friend}. "I [dropped my {noun} and was looking for it|could not sleep and wanted to
  play my drum|hurt my foot and cannot walk home]." {hero} [began to laugh|laughed and laughed].
{he} [helped {friend}|took {friend} into the house], and they [drank warm milk|ate {food}] together. [After that,
  {hero} was never afraid of the dark again.|"Most monsters are only friends in the dark," said {hero}.]
""",
    "birthday": """
It was {hero}'s birthday, but [nobody said a word about it|everybody seemed to have forgotten it]. {he} went to
  {friend} {the_friend}. "[I have no time today|I am busy]," said {friend} and [closed the door|ran away].
Then {he} went to {other} {the_other}. "[Not now|Sorry], {hero}," said {other}. {hero} felt [very sad|so alone].
  "[Nobody thinks of me|They have forgotten my birthday]," {he} thought.
{he} walked slowly [to {place}|around {place}] and [sat there alone|looked at the water] until [evening|the sun went
  down]. Then {he} went home. [It was dark in the house.|All the windows were dark.]
{he} opened the door, and suddenly [all the lights went on|there was light everywhere]. "[Surprise!|Happy
  birthday!]" shouted {friend} and {other} and all the others.
They had {food}, and there were [songs|games] and [balloons|many flowers]. {friend} gave {hero} {a_thing}. "[Did you
  think we forgot you?|We wanted to surprise you,]" said {friend}.
[{hero} laughed and cried at the same time.|{hero} was the happiest {kind} in the world.] [It was the best birthday
  of all.|They danced until midnight.]
""",
}
