# What each provider is told of a machine, and whether there is one. The names of the settings are the providers' own.
require_relative "machines"

module Providers
  SETTINGS = {
    "virtualbox" => lambda do |settings, machine|
      settings.cpus = machine.cpus
      settings.memory = machine.memory
      settings.linked_clone = true
      settings.check_guest_additions = false # nothing here needs them
    end,
    "libvirt" => lambda do |settings, machine|
      settings.cpus = machine.cpus
      settings.memory = machine.memory
      settings.qemu_use_session = false # the private network is the system's libvirt's
      next unless EMULATED

      settings.driver = "qemu"
      settings.cpu_mode = "custom"
      settings.cpu_model = "qemu64"
    end,
    "vmware_desktop" => lambda do |settings, machine|
      settings.vmx["numvcpus"] = machine.cpus.to_s
      settings.vmx["memsize"] = machine.memory.to_s
      settings.linked_clone = true
    end,
    "parallels" => lambda do |settings, machine|
      settings.cpus = machine.cpus
      settings.memory = machine.memory
      settings.linked_clone = true
      settings.update_guest_tools = false
    end,
    # vagrant-qemu 0.6 or later. On Linux and Windows the machines meet by multicast on the loopback, which needs no root;
    # macOS sends none there, so on it they meet by socket_vmnet: docs/how-to/vagrant.md.
    "qemu" => lambda do |settings, machine|
      settings.smp = machine.cpus.to_s
      settings.memory = "#{machine.memory}M"
      settings.ssh_auto_correct = true
      settings.advanced_network = true
      settings.net_mode = MACOS ? :socket_vmnet : :socket
      settings.socket_opts = "mcast=230.0.0.56:18656,localaddr=127.0.0.1" unless MACOS
    end,
  }.freeze

  EMULATED = ENV["LAB_TCG"] == "1" # libvirt without KVM: slow, and true
  LINUX = RbConfig::CONFIG["host_os"].match?(/linux/)
  MACOS = RbConfig::CONFIG["host_os"].match?(/darwin/)
  LIGHT = "or the light lab, which needs no hypervisor: ./dev lab up".freeze

  module_function

  # The provider that `arguments` start machines by; refuses when there is none that can.
  def check(machines, arguments, environment, usable)
    asked = arguments.join(" ")[/--provider[= ](\S+)/, 1] || machines.filter_map { |one| Machines.provider_of(one) }.first
    asked ||= environment["VAGRANT_DEFAULT_PROVIDER"]
    known = SETTINGS.keys.join(", ")
    Machines.refuse "the lab knows no provider #{asked}; try: #{known}" if asked && !SETTINGS.key?(asked)
    found = asked || (SETTINGS.keys & usable).first
    Machines.refuse "no provider is usable here; try: install one of #{known}, #{LIGHT}" unless found
    Machines.refuse "#{found} is not installed or not usable; try: one of #{known}, #{LIGHT}" unless usable.include?(found)
    return found unless found == "libvirt" && !EMULATED && LINUX && !kvm?

    Machines.refuse "libvirt: this computer has no KVM; try: turn virtualization on in its firmware, LAB_TCG=1 (slow), #{LIGHT}"
  end

  # The device is not enough: it is there also where the processor, a virtual one perhaps, has no virtualization.
  def kvm?
    File.exist?("/dev/kvm") && File.read("/proc/cpuinfo").match?(/\b(vmx|svm)\b|^CPU implementer/)
  end

  # The names of the providers that Vagrant can use on this computer.
  def usable
    Vagrant.plugin("2").manager.providers.to_hash.filter_map { |name, (kind, _)| name.to_s if kind.usable?(false) }
  end
end
