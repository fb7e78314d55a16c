# Which machines there are, from nodes.yaml and WORKERS, and whether this computer can carry them.
require "resolv"
require "socket"
require "yaml"

module Machines
  # `autostart` is false for a machine that an earlier, larger WORKERS made: `status`, `halt` and `destroy` see it, `up`
  # leaves it alone.
  Machine = Struct.new(:name, :address, :cpus, :memory, :autostart, keyword_init: true) do
    def manager?
      name == "manager"
    end
  end

  STARTING = %w[up reload resume].freeze # what needs memory and a free network; `destroy` is never refused for these
  DATA = File.expand_path(ENV.fetch("VAGRANT_DOTFILE_PATH", ".vagrant"), __dir__) # where Vagrant keeps what it made
  OWN_SYSTEM = 1024 # MiB that this computer keeps for itself
  # Interfaces that hypervisors made, for just these machines perhaps.
  HYPERVISORS = /\A(vboxnet|virbr|vmnet|vnic|bridge|VirtualBox|VMware)/i.freeze

  module_function

  # Ends the command with one line: which machine or setting, why, and what to try.
  def refuse(line)
    abort "vagrant: #{line}"
  end

  def all(environment, arguments)
    machines = of_nodes_yaml
    started = machines.take(1 + workers(environment, machines.size - 1))
    started.each { |machine| machine.autostart = true }
    if starting?(arguments)
      fits(started, (environment["LAB_HOST_MEMORY"] || memory_here).to_i)
      free(started, networks_here)
    end
    machines.select { |machine| machine.autostart || provider_of(machine) }
  end

  def of_nodes_yaml(table = File.join(__dir__, "nodes.yaml"))
    machines = []
    YAML.safe_load(File.read(table)).each do |row|
      machine = Machine.new(**row.transform_keys(&:to_sym), autostart: false)
      wrong(table, machines, "it lacks #{machine.members.find { |name| machine[name].nil? }}") if machine.to_a.include?(nil)
      wrong(table, machines, "#{machine.address} is no address") unless Resolv::IPv4::Regex.match?(machine.address)
      other = machines.find { |one| one.name == machine.name || one.address == machine.address }
      wrong(table, machines, "#{other.name} has its name or its address, #{machine.address}, too") if other
      machines << machine
    end
    machines
  rescue ArgumentError, NoMethodError, Psych::SyntaxError => e
    wrong(table, machines, e.message.lines.first.chomp)
  end

  def wrong(table, machines, why)
    refuse "#{File.basename(table)}, row #{machines.size + 1}: #{why}; try: a row as the others in #{table}"
  end

  def starting?(arguments)
    STARTING.include?(command(arguments))
  end

  def command(arguments)
    arguments.find { |word| !word.start_with?("-") }
  end

  def workers(environment, most)
    text = environment.fetch("WORKERS", "2")
    refuse "WORKERS=#{text} is no whole number; try: WORKERS=2" unless text.match?(/\A\d{1,9}\z/)
    refuse "WORKERS=0 leaves the manager without workers; try: WORKERS=1" if text.to_i.zero?
    return text.to_i if text.to_i <= most

    refuse "WORKERS=#{text}, and vagrant/nodes.yaml has #{most} workers; try: WORKERS=#{most}, or add rows there"
  end

  # The provider that made a machine, or nil: Vagrant keeps the id of what it made.
  def provider_of(machine)
    id = Dir.glob(File.join(DATA, "machines", machine.name, "*", "id")).first
    id && File.basename(File.dirname(id))
  end

  def fits(machines, there)
    needed = machines.sum(&:memory)
    return if there.zero? || needed + OWN_SYSTEM <= there

    refuse "#{machines.map(&:name).join(", ")} need #{needed} MiB, and this computer has #{there}, of which #{OWN_SYSTEM} " \
           "stay its own; try: fewer WORKERS, less memory in vagrant/nodes.yaml, or the light lab: ./dev lab up"
  end

  # MiB, or 0 where this computer does not say.
  def memory_here
    case RbConfig::CONFIG["host_os"]
    when /linux/ then File.read("/proc/meminfo")[/^MemTotal:\s+(\d+)/, 1].to_i >> 10
    when /darwin/ then `sysctl -n hw.memsize`.to_i >> 20
    when /mswin|mingw/ then `powershell -NoProfile -Command "(gcim Win32_ComputerSystem).TotalPhysicalMemory"`.to_i >> 20
    else 0
    end
  end

  # A network of this computer's own in the lab's range would take the packets that are meant for the machines.
  def free(machines, networks)
    machines.each do |machine|
      name, address = networks.find do |interface, taken|
        taken == machine.address || (taken[/.*\./] == machine.address[/.*\./] && !interface.match?(HYPERVISORS))
      end
      next unless name

      refuse "#{machine.name}: its address #{machine.address} is in the network of this computer's #{name} (#{address}); " \
             "try: leave that network, or other addresses in vagrant/nodes.yaml (VirtualBox allows 192.168.56.0/21)"
    end
  end

  def networks_here
    Socket.getifaddrs.select { |one| one.addr&.ipv4? }.map { |one| [one.name, one.addr.ip_address] }
  rescue NotImplementedError # Windows
    []
  end
end
