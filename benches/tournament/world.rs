//! Made-up destinations that greylist, after the defaults and wordings of real programs, and as operators change them.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

use otp_relay::testing::base::clock::Timestamp;
use otp_relay::testing::smtp::client_session::Stage;
use otp_relay::testing::smtp::reply::{Reply, parse_reply};

use crate::random::Random;

/// What a refusal says about the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Nothing.
    None,
    /// What is left, to the second.
    Left,
    /// The whole delay, each time.
    Whole,
}

/// What early attempts cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Punishment {
    /// A connection, and nothing else.
    None,
    /// The wait begins anew.
    Restart,
    /// Two minutes more for each.
    Penalty,
}

/// Who is let in by a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opens {
    /// The triplet.
    Triplet,
    /// All recipients of the same sender.
    Sender,
    /// After so many passes, whatever comes from the client.
    Client(u32),
}

/// A program, as it is shipped.
struct Program {
    weight: u64,
    delay_s: u64,
    stage: Stage,
    hint: Hint,
    opens: Opens,
    reply: &'static str,
}

static PROGRAMS: LazyLock<Vec<Program>> = LazyLock::new(|| {
    let lines = include_str!("programs.txt").lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| Program::parse(line).unwrap_or_else(|| panic!("no program: {line}"))).collect()
});

impl Program {
    fn parse(line: &'static str) -> Option<Self> {
        let mut rest = line;
        let mut word = || {
            let (word, after) = rest.trim_start().split_once(' ')?;
            rest = after;
            Some(word)
        };
        let (weight, delay_s) = (word()?.parse().ok()?, word()?.parse().ok()?);
        let stage = match word()? {
            "rcpt" => Stage::Rcpt,
            "content" => Stage::Content,
            _ => return None,
        };
        let hint = match word()? {
            "none" => Hint::None,
            "left" => Hint::Left,
            "whole" => Hint::Whole,
            _ => return None,
        };
        let opens = match word()? {
            "triplet" => Opens::Triplet,
            "sender" => Opens::Sender,
            client => Opens::Client(client.strip_prefix("client/")?.parse().ok()?),
        };
        Some(Self { weight, delay_s, stage, hint, opens, reply: rest.trim_start() })
    }
}

/// How destinations come about.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// For the table.
    pub name: &'static str,
    pub seed: u64,
    /// In 100 destinations: a delay that no program ships, any at all; a hint that does not hold; early attempts cost.
    other_delay_percent: u64,
    dishonest_percent: u64,
    punishing_percent: u64,
    /// Programs as they are common, or each as often as any other.
    by_weight: bool,
}

const fn kind(name: &'static str, seed: u64, percents: [u64; 3], by_weight: bool) -> Kind {
    let [other_delay_percent, dishonest_percent, punishing_percent] = percents;
    Kind { name, seed, other_delay_percent, dishonest_percent, punishing_percent, by_weight }
}

/// The tournament's world; another one without common programs and known delays, with more lies and more punishment; one
/// between them; and one that was drawn only when the plan was done.
pub const KINDS: [Kind; 4] = [
    kind("as programs are shipped and operators change them", 20_261_121, [20, 15, 6], true),
    kind("any delay, twice the lies, three times the punishment", 7, [100, 30, 18], false),
    kind("half the delays unknown, all programs as common as each other", 1_812, [50, 20, 9], false),
    kind(
        "kept back until the plan was done: a third of the delays unknown, a quarter lies",
        30_303,
        [35, 25, 12],
        true,
    ),
];

/// One destination.
#[derive(Clone, Debug)]
pub struct Destination {
    program: usize,
    delay_ms: u64,
    asked_ms: u64,
    punishment: Punishment,
    opens: Opens,
    /// Whole seconds are compared, and only what is later than the delay passes.
    is_coarse: bool,
    /// From the beginning of an attempt to the decision, and from there to the reply.
    latency_ms: u64,
}

impl Destination {
    pub fn new(kind: &Kind, random: &mut Random) -> Self {
        let program = pick(kind, random);
        let shipped = &PROGRAMS[program];
        let delay_ms = 1000 * other_delay(shipped.delay_s, kind, random);
        let asked_ms = match random.below(100) {
            n if n >= kind.dishonest_percent => delay_ms,
            n if n % 2 == 0 => delay_ms / 4 + 1000,
            _ => delay_ms * (2 + random.below(3)),
        };
        let punishment = match random.below(100) {
            n if n >= kind.punishing_percent || shipped.delay_s == 0 => Punishment::None,
            n if n % 3 == 0 => Punishment::Penalty,
            _ => Punishment::Restart,
        };
        let opens = if kind.by_weight {
            shipped.opens
        } else {
            [Opens::Triplet, Opens::Sender, Opens::Client(5)][random.index(3)]
        };
        let (is_coarse, latency_ms) = (random.below(2) == 0, 10 + random.below(290));
        Self { program, delay_ms, asked_ms, punishment, opens, is_coarse, latency_ms }
    }

    /// How long it makes a stranger wait.
    pub fn delay(&self) -> Duration {
        Duration::from_millis(self.delay_ms)
    }

    /// Whether a refusal names a time, which holds.
    pub fn has_honest_hint(&self) -> bool {
        PROGRAMS[self.program].hint != Hint::None && self.asked_ms == self.delay_ms
    }

    /// Whether a refusal names a time.
    pub fn has_hint(&self) -> bool {
        PROGRAMS[self.program].hint != Hint::None
    }
}

fn pick(kind: &Kind, random: &mut Random) -> usize {
    if !kind.by_weight {
        return random.index(PROGRAMS.len());
    }
    let mut left = random.below(PROGRAMS.iter().map(|program| program.weight).sum());
    let fits = |program: &Program| {
        let fits = left < program.weight;
        left = left.saturating_sub(program.weight);
        fits
    };
    PROGRAMS.iter().position(fits).unwrap_or(0)
}

/// A delay that an operator chose: in the first world mostly a round one.
fn other_delay(shipped_s: u64, kind: &Kind, random: &mut Random) -> u64 {
    const ROUND: [u64; 10] = [10, 30, 60, 90, 120, 150, 200, 400, 480, 600];
    if random.below(100) >= kind.other_delay_percent {
        return shipped_s;
    }
    if kind.by_weight && random.below(3) > 0 {
        return ROUND[random.index(ROUND.len())];
    }
    // Between 10 s and 40 min, each order of magnitude as often.
    let share = random.below(10_000) as f64 / 10_000.0;
    (10.0 * 240f64.powf(share)) as u64
}

struct Known {
    first_ms: u64,
    start_ms: u64,
    penalty_ms: u64,
    passed: bool,
}

/// A destination at work, as one sender sees it.
pub struct Host<'a> {
    destination: &'a Destination,
    known: HashMap<u64, Known>,
    passes: u32,
}

/// What came of an attempt.
pub enum Answer {
    /// It was taken.
    Taken,
    /// It was refused so.
    Refused(Stage, Reply),
}

impl<'a> Host<'a> {
    pub fn new(destination: &'a Destination) -> Self {
        Self { destination, known: HashMap::new(), passes: 0 }
    }

    /// One attempt for a recipient; with the time at which the reply is there.
    pub fn attempt(&mut self, recipient: u64, began: Timestamp) -> (Answer, Timestamp) {
        let latency_ms = self.destination.latency_ms;
        let now_ms = began.as_millis() + latency_ms;
        let replied = Timestamp::from_millis(now_ms + latency_ms);
        let is_open = match self.destination.opens {
            Opens::Triplet => false,
            Opens::Sender => self.passes > 0,
            Opens::Client(passes) => self.passes >= passes,
        };
        if is_open || self.decide(recipient, now_ms) {
            return (Answer::Taken, replied);
        }
        let (stage, reply) = self.refusal(recipient, now_ms);
        (Answer::Refused(stage, reply), replied)
    }

    /// When the window opens for a recipient that attempts did not harm; none if it never had to wait.
    pub fn opens_at(&self, recipient: u64) -> Option<Timestamp> {
        let known = self.known.get(&recipient)?;
        Some(Timestamp::from_millis(known.first_ms + self.destination.delay_ms))
    }

    fn decide(&mut self, recipient: u64, now_ms: u64) -> bool {
        let Destination { delay_ms, punishment, is_coarse, .. } = *self.destination;
        let Some(known) = self.known.get_mut(&recipient) else {
            let known = Known { first_ms: now_ms, start_ms: now_ms, penalty_ms: 0, passed: false };
            self.known.insert(recipient, known);
            return false;
        };
        let wait_ms = delay_ms + known.penalty_ms;
        let passes = if is_coarse {
            delay_ms == 0 || now_ms / 1000 - known.start_ms / 1000 > wait_ms / 1000
        } else {
            now_ms - known.start_ms >= wait_ms
        };
        if passes || known.passed {
            self.passes += u32::from(!std::mem::replace(&mut known.passed, true));
            return true;
        }
        match punishment {
            Punishment::None => {}
            Punishment::Restart => known.start_ms = now_ms,
            Punishment::Penalty => known.penalty_ms += 120_000,
        }
        false
    }

    fn refusal(&self, recipient: u64, now_ms: u64) -> (Stage, Reply) {
        let program = &PROGRAMS[self.destination.program];
        let asked_ms = self.destination.asked_ms;
        let start_ms = self.known.get(&recipient).map_or(now_ms, |known| known.start_ms);
        let ms = match program.hint {
            Hint::None | Hint::Whole => asked_ms,
            Hint::Left => asked_ms.saturating_sub(now_ms - start_ms),
        };
        let s = ms.div_ceil(1000).max(1);
        let text = program
            .reply
            .replace("{s}", &s.to_string())
            .replace("{ms}", &format!("{}:{:02}", s / 60, s % 60))
            .replace("{m}", &s.div_ceil(60).to_string())
            .replace("{h}", &format!("{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60));
        let line = format!("{text}\r\n");
        let Ok(Some((reply, _))) = parse_reply(line.as_bytes()) else { panic!("no reply: {line}") };
        (program.stage, reply)
    }
}
