//! Which functions there are, and what they take: a line for each overload. `x.f(y)` lines are members, `f(x)` lines
//! are not; `T` and `U` stand for any type.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use super::types::Type;

pub(super) const AUTHORIZER: &str = "kubernetes.authorization.Authorizer";
pub(super) const RESOURCE_CHECK: &str = "kubernetes.authorization.ResourceCheck";

/// An overload of a function.
#[derive(Debug)]
pub(super) struct Overload {
    pub member: bool,
    pub args: Vec<Type>,
    pub result: Type,
}

const TABLE: &str = "
_==_ T T bool
_!=_ T T bool
!_ bool bool
-_ int int
-_ double double
-_ duration duration
_?_:_ bool T T T
_[_] list<T> int T
_[_] map<T,U> T U
_[_] optional<list<T>> int optional<T>
_[_] optional<map<T,U>> T optional<U>
_[?_] list<T> int optional<T>
_[?_] map<T,U> T optional<U>
_[?_] optional<list<T>> int optional<T>
_[?_] optional<map<T,U>> T optional<U>
@in T list<T> bool
@in T map<T,U> bool
_+_ int int int
_+_ uint uint uint
_+_ double double double
_+_ string string string
_+_ bytes bytes bytes
_+_ list<T> list<T> list<T>
_+_ timestamp duration timestamp
_+_ duration timestamp timestamp
_+_ duration duration duration
_-_ int int int
_-_ uint uint uint
_-_ double double double
_-_ timestamp timestamp duration
_-_ timestamp duration timestamp
_-_ duration duration duration
_*_ int int int
_*_ uint uint uint
_*_ double double double
_/_ int int int
_/_ uint uint uint
_/_ double double double
_%_ int int int
_%_ uint uint uint
size string int
size bytes int
size list<T> int
size map<T,U> int
.size string int
.size bytes int
.size list<T> int
.size map<T,U> int
type T type
dyn T dyn
int int int
int uint int
int double int
int string int
int timestamp int
int duration int
uint uint uint
uint int uint
uint double uint
uint string uint
double double double
double int double
double uint double
double string double
string string string
string bool string
string int string
string uint string
string double string
string bytes string
string timestamp string
string duration string
string net.IP string
string net.CIDR string
bytes bytes bytes
bytes string bytes
bool bool bool
bool string bool
duration duration duration
duration string duration
timestamp timestamp timestamp
timestamp string timestamp
timestamp int timestamp
.getFullYear timestamp int
.getFullYear timestamp string int
.getMonth timestamp int
.getMonth timestamp string int
.getDayOfYear timestamp int
.getDayOfYear timestamp string int
.getDayOfMonth timestamp int
.getDayOfMonth timestamp string int
.getDate timestamp int
.getDate timestamp string int
.getDayOfWeek timestamp int
.getDayOfWeek timestamp string int
.getHours timestamp int
.getHours timestamp string int
.getHours duration int
.getMinutes timestamp int
.getMinutes timestamp string int
.getMinutes duration int
.getSeconds timestamp int
.getSeconds timestamp string int
.getSeconds duration int
.getMilliseconds timestamp int
.getMilliseconds timestamp string int
.getMilliseconds duration int
.contains string string bool
.startsWith string string bool
.endsWith string string bool
.matches string string bool
matches string string bool
.charAt string int string
.indexOf string string int
.indexOf string string int int
.lastIndexOf string string int
.lastIndexOf string string int int
.lowerAscii string string
.upperAscii string string
.trim string string
.reverse string string
.replace string string string string
.replace string string string int string
.split string string list<string>
.split string string int list<string>
.substring string int string
.substring string int int string
.join list<string> string
.join list<string> string string
.format string list<dyn> string
strings.quote string string
base64.encode bytes string
base64.decode string bytes
.find string string string
.findAll string string list<string>
.findAll string string int list<string>
.isSorted list<T> bool
.sum list<T> T
.min list<T> T
.max list<T> T
.indexOf list<T> T int
.lastIndexOf list<T> T int
.first list<T> optional<T>
.last list<T> optional<T>
.slice list<T> int int list<T>
.flatten list<T> list<dyn>
.flatten list<T> int list<dyn>
.reverse list<T> list<T>
.sort list<T> list<T>
.distinct list<T> list<T>
lists.range int list<int>
sets.contains list<T> list<T> bool
sets.equivalent list<T> list<T> bool
sets.intersects list<T> list<T> bool
optional.of T optional<T>
optional.ofNonZeroValue T optional<T>
optional.none optional<dyn>
optional.unwrap list<optional<T>> list<T>
.unwrapOpt list<optional<T>> list<T>
.hasValue optional<T> bool
.value optional<T> T
.or optional<T> optional<T> optional<T>
.orValue optional<T> T T
math.abs int int
math.abs uint uint
math.abs double double
math.sign int int
math.sign uint uint
math.sign double double
math.ceil double double
math.floor double double
math.round double double
math.trunc double double
math.sqrt double double
math.sqrt int double
math.sqrt uint double
math.isNaN double bool
math.isInf double bool
math.isFinite double bool
math.bitAnd int int int
math.bitAnd uint uint uint
math.bitOr int int int
math.bitOr uint uint uint
math.bitXor int int int
math.bitXor uint uint uint
math.bitNot int int
math.bitNot uint uint
math.bitShiftLeft int int int
math.bitShiftLeft uint int uint
math.bitShiftRight int int int
math.bitShiftRight uint int uint
quantity string kubernetes.Quantity
isQuantity string bool
.sign kubernetes.Quantity int
.isInteger kubernetes.Quantity bool
.asInteger kubernetes.Quantity int
.asApproximateFloat kubernetes.Quantity double
.isGreaterThan kubernetes.Quantity kubernetes.Quantity bool
.isLessThan kubernetes.Quantity kubernetes.Quantity bool
.compareTo kubernetes.Quantity kubernetes.Quantity int
.add kubernetes.Quantity kubernetes.Quantity kubernetes.Quantity
.add kubernetes.Quantity int kubernetes.Quantity
.sub kubernetes.Quantity kubernetes.Quantity kubernetes.Quantity
.sub kubernetes.Quantity int kubernetes.Quantity
ip string net.IP
isIP string bool
ip.isCanonical string bool
.family net.IP int
.isUnspecified net.IP bool
.isLoopback net.IP bool
.isLinkLocalMulticast net.IP bool
.isLinkLocalUnicast net.IP bool
.isGlobalUnicast net.IP bool
cidr string net.CIDR
isCIDR string bool
.containsIP net.CIDR net.IP bool
.containsIP net.CIDR string bool
.containsCIDR net.CIDR net.CIDR bool
.containsCIDR net.CIDR string bool
.ip net.CIDR net.IP
.masked net.CIDR net.CIDR
.prefixLength net.CIDR int
url string kubernetes.URL
isURL string bool
.getScheme kubernetes.URL string
.getHost kubernetes.URL string
.getHostname kubernetes.URL string
.getPort kubernetes.URL string
.getEscapedPath kubernetes.URL string
.getQuery kubernetes.URL map<string,list<string>>
semver string kubernetes.Semver
semver string bool kubernetes.Semver
isSemver string bool
isSemver string bool bool
.major kubernetes.Semver int
.minor kubernetes.Semver int
.patch kubernetes.Semver int
.isGreaterThan kubernetes.Semver kubernetes.Semver bool
.isLessThan kubernetes.Semver kubernetes.Semver bool
.compareTo kubernetes.Semver kubernetes.Semver int
format.named string optional<kubernetes.NamedFormat>
format.dns1123Label kubernetes.NamedFormat
format.dns1123Subdomain kubernetes.NamedFormat
format.dns1035Label kubernetes.NamedFormat
format.qualifiedName kubernetes.NamedFormat
format.dns1123LabelPrefix kubernetes.NamedFormat
format.dns1123SubdomainPrefix kubernetes.NamedFormat
format.dns1035LabelPrefix kubernetes.NamedFormat
format.labelValue kubernetes.NamedFormat
format.uri kubernetes.NamedFormat
format.uuid kubernetes.NamedFormat
format.byte kubernetes.NamedFormat
format.date kubernetes.NamedFormat
format.datetime kubernetes.NamedFormat
.validate kubernetes.NamedFormat string optional<list<string>>
jsonpatch.escapeKey string string
.path kubernetes.authorization.Authorizer string kubernetes.authorization.PathCheck
.group kubernetes.authorization.Authorizer string kubernetes.authorization.GroupCheck
.serviceAccount kubernetes.authorization.Authorizer string string kubernetes.authorization.Authorizer
.resource kubernetes.authorization.GroupCheck string kubernetes.authorization.ResourceCheck
.subresource kubernetes.authorization.ResourceCheck string kubernetes.authorization.ResourceCheck
.namespace kubernetes.authorization.ResourceCheck string kubernetes.authorization.ResourceCheck
.name kubernetes.authorization.ResourceCheck string kubernetes.authorization.ResourceCheck
.fieldSelector kubernetes.authorization.ResourceCheck string kubernetes.authorization.ResourceCheck
.labelSelector kubernetes.authorization.ResourceCheck string kubernetes.authorization.ResourceCheck
.check kubernetes.authorization.ResourceCheck string kubernetes.authorization.Decision
.check kubernetes.authorization.PathCheck string kubernetes.authorization.Decision
.allowed kubernetes.authorization.Decision bool
.reason kubernetes.authorization.Decision string
.errored kubernetes.authorization.Decision bool
.error kubernetes.authorization.Decision string
";

/// Types that `_<_` and its like compare, with themselves; numbers also with each other.
const ORDERED: [&str; 5] = ["bool", "string", "bytes", "timestamp", "duration"];
const NUMBERS: [&str; 3] = ["int", "uint", "double"];

static OVERLOADS: LazyLock<HashMap<String, Vec<Overload>>> = LazyLock::new(|| {
    let mut table: HashMap<String, Vec<Overload>> = HashMap::new();
    let mut add = |name: &str, member: bool, words: &[&str]| {
        let mut types: Vec<Type> = words.iter().map(|word| parse(word)).collect();
        if let Some(result) = types.pop() {
            table.entry(name.to_owned()).or_default().push(Overload { member, args: types, result });
        }
    };
    for line in TABLE.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let Some((name, rest)) = words.split_first() {
            add(name.trim_start_matches('.'), name.starts_with('.'), rest);
        }
    }
    for operator in ["_<_", "_<=_", "_>_", "_>=_"] {
        for ty in ORDERED {
            add(operator, false, &[ty, ty, "bool"]);
        }
        for a in NUMBERS {
            for b in NUMBERS {
                add(operator, false, &[a, b, "bool"]);
            }
        }
    }
    table
});

fn parse(word: &str) -> Type {
    let inside = |open: &str| word.strip_prefix(open).and_then(|rest| rest.strip_suffix('>'));
    if let Some(item) = inside("list<") {
        return Type::list(parse(item));
    }
    if let Some(item) = inside("optional<") {
        return Type::optional(parse(item));
    }
    if let Some((key, value)) = inside("map<").and_then(|inner| inner.split_once(',')) {
        return Type::Map(Arc::new(parse(key)), Arc::new(parse(value)));
    }
    match word {
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "duration" => Type::Duration,
        "timestamp" => Type::Timestamp,
        "type" => Type::Type,
        "T" => Type::Param('A'),
        "U" => Type::Param('B'),
        word => OPAQUE.iter().find(|name| **name == word).map_or(Type::Dyn, |name| Type::Opaque(name)),
    }
}

const OPAQUE: [&str; 11] = [
    "kubernetes.Quantity",
    "net.IP",
    "net.CIDR",
    "kubernetes.URL",
    "kubernetes.Semver",
    "kubernetes.NamedFormat",
    AUTHORIZER,
    RESOURCE_CHECK,
    "kubernetes.authorization.PathCheck",
    "kubernetes.authorization.GroupCheck",
    "kubernetes.authorization.Decision",
];

/// The overloads of a function; `None` if there is no such function. `math.greatest` and `math.least`, which take any
/// number of arguments, have none listed.
pub(super) fn overloads(function: &str) -> Option<&'static [Overload]> {
    if matches!(function, "math.greatest" | "math.least") {
        return Some(&[]);
    }
    OVERLOADS.get(function).map(Vec::as_slice)
}

/// Whether a name with a dot is one function's.
pub(super) fn is_qualified(name: &str) -> bool {
    overloads(name).is_some()
}

/// The type that an identifier names, as `type()` calls it.
pub(super) fn type_name(identifier: &str) -> Option<&'static str> {
    const TYPES: [&str; 19] = [
        "bool",
        "int",
        "uint",
        "double",
        "string",
        "bytes",
        "list",
        "map",
        "null_type",
        "type",
        "optional_type",
        "google.protobuf.Timestamp",
        "google.protobuf.Duration",
        "kubernetes.Quantity",
        "net.IP",
        "net.CIDR",
        "kubernetes.URL",
        "kubernetes.Semver",
        "kubernetes.NamedFormat",
    ];
    TYPES.into_iter().find(|name| *name == identifier)
}
